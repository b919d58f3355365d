"""Attention of rows of queries over a paged cache, after FlashAttention 2 (arXiv 2307.08691).

The query heads that share a key head stand in one tile: row m of a tile is query m // group of the
tile and head m % group, so that short chunks fill tiles and keys are loaded once for all of them.
"""

import triton
import triton.language as tl

from .cache_write import load_heads
from .softmax import fold, soft_capped, to_compute

__all__ = ("paged_prefill",)


@triton.jit(do_not_specialize=["blocks_stride"])
def paged_prefill(
    out_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    blocks_ptr,
    tiles_ptr,
    starts_ptr,
    lengths_ptr,
    blocks_stride,
    q_stride,
    scale,
    soft_cap,
    v_scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    M: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    COMPUTE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
):
    """Grid (KV_HEADS, tiles): the query heads of one key head for M // group queries of a row.

    Args:
        keys_ptr, values_ptr: [blocks, KV_HEADS, BLOCK_SIZE, D], this step's tokens included.
        tiles_ptr: int32 [tiles, 2], a row and the first of its queries; -1 for no row.
        starts_ptr: int32 [rows + 1], the rows' first tokens; lengths_ptr: int32 [rows].
        scale: from products to base-2 logarithms, or for ``soft_capped``; the keys' is in it.
        WINDOW: keys that a query sees, its own included; 0 for all before it.
    """
    kv_head = tl.program_id(0)
    row = tl.load(tiles_ptr + tl.program_id(1) * 2).to(tl.int64)
    if row < 0:
        return
    first = tl.load(tiles_ptr + tl.program_id(1) * 2 + 1)
    start = tl.load(starts_ptr + row)
    queries = tl.load(starts_ptr + row + 1) - start
    cached = tl.load(lengths_ptr + row) - queries
    group: tl.constexpr = HEADS // KV_HEADS
    m = tl.arange(0, M)
    query = first + m // group
    d = tl.arange(0, WIDTH)[None, :]
    real = (query < queries) & (m < M // group * group)
    mask = real[:, None] & (d < D)
    token = (start + query).to(tl.int64)
    head = kv_head * group + m % group
    q = tl.load(q_ptr + (token * q_stride + head * D)[:, None] + d, mask=mask, other=0.0)
    q = to_compute(q.to(tl.float32), COMPUTE)
    position = cached + query
    end = cached + tl.minimum(first + M // group, queries)
    # At the end of a tile, so that a query meets its keys in the same tiles wherever it stands.
    begin = tl.maximum(cached + first + 1 - WINDOW, 0) // TILE * TILE if WINDOW else 0
    # Whole tiles that every query of this one sees need no mask; a window hides on both sides.
    masked = begin if WINDOW else (cached + first + 1) // TILE * TILE
    blocks_ptr += row * blocks_stride
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, WIDTH), tl.float32)
    block = _blocks(blocks_ptr, begin, end, TILE, BLOCK_SIZE)
    if not WINDOW:
        for key in range(0, masked, TILE):
            block, top, total, acc = _tile(
                q, block, top, total, acc, keys_ptr, values_ptr, blocks_ptr, kv_head, key, end,
                position, d, scale, soft_cap, KV_HEADS, D, WIDTH, TILE, BLOCK_SIZE, 0, COMPUTE,
                SOFT_CAP, False,
            )  # fmt: skip
    for key in range(masked, end, TILE):
        block, top, total, acc = _tile(
            q, block, top, total, acc, keys_ptr, values_ptr, blocks_ptr, kv_head, key, end,
            position, d, scale, soft_cap, KV_HEADS, D, WIDTH, TILE, BLOCK_SIZE, WINDOW, COMPUTE,
            SOFT_CAP, True,
        )  # fmt: skip
    out = acc * (v_scale / total)[:, None]
    to = ((token * HEADS + head) * D)[:, None] + d
    tl.store(out_ptr + to, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _blocks(blocks_ptr, key, end, TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Block ids of the keys from ``key`` on; past the end the last one's."""
    return tl.load(blocks_ptr + tl.minimum(key + tl.arange(0, TILE), end - 1) // BLOCK_SIZE)


@triton.jit
def _tile(
    q, block, top, total, acc, keys_ptr, values_ptr, blocks_ptr, kv_head, key, end, position, d,
    scale, soft_cap, KV_HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr, WINDOW: tl.constexpr, COMPUTE: tl.constexpr,
    SOFT_CAP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take the keys from ``key`` on, which stand in ``block``, into the softmax.

    Returns:
        The next tile's blocks, which are there before its loads start, so that those run ahead;
        then top, total and acc.
    """
    at = key + tl.arange(0, TILE)
    # Past the end the last key again, since what else stands there may be NaN.
    offset = tl.minimum(at, end - 1) % BLOCK_SIZE
    slot = (block.to(tl.int64) * KV_HEADS + kv_head) * BLOCK_SIZE + offset
    block = _blocks(blocks_ptr, key + TILE, end, TILE, BLOCK_SIZE)
    offsets = slot[:, None] * D + d
    k = load_heads(keys_ptr + offsets, d, D, WIDTH)
    scores = tl.dot(q, tl.trans(k.to(COMPUTE)), input_precision="tf32x3")
    if SOFT_CAP:
        scores = soft_capped(scores, scale, soft_cap)
    if MASKED:
        seen = at[None, :] <= position[:, None]
        if WINDOW:
            seen &= at[None, :] > position[:, None] - WINDOW
        scores = tl.where(seen, scores, float("-inf"))
    factor = 1.0 if SOFT_CAP else scale
    weights, fade, top, total = fold(scores, factor, top, total, WINDOW > 0)
    v = load_heads(values_ptr + offsets, d, D, WIDTH).to(COMPUTE)
    acc = tl.dot(weights.to(COMPUTE), v, acc * fade[:, None], input_precision="tf32x3")
    return block, top, total, acc
