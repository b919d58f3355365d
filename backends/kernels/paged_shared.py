"""Attention of many single queries to the keys that their rows begin with in common.

Users of one system prompt share its blocks. Read once for a run of rows, whose query heads fill one
tile, they cost a fraction of what they do read once a row; after Cascade Inference (Ye et al.,
2024). What is found here is merged by ``paged_decode``, which attends to each row's other keys.
"""

import triton
import triton.language as tl

from .cache_write import rotated
from .paged_decode import attend_keys, cut_size, tile_blocks
from .softmax import to_compute

__all__ = ("find_shared", "paged_shared")


@triton.jit(do_not_specialize=["num_rows", "blocks_stride", "fewest"])
def find_shared(
    shared_ptr,
    lengths_ptr,
    blocks_ptr,
    num_rows,
    blocks_stride,
    fewest,
    RUN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """How many leading keys the block tables of RUN rows have in common. Grid (runs).

    A row's newest token is never among them, since it is yet to be written. Rows of one token, as
    those are that pad a step, have no part in this.

    Args:
        shared_ptr: int32 [runs], written: keys of whole blocks, or 0 if there are less than
            ``fewest`` or nobody to share them with.
    """
    CHUNK: tl.constexpr = 64
    row = tl.program_id(0) * RUN + tl.arange(0, ROWS)
    inside = (tl.arange(0, ROWS) < RUN) & (row < num_rows)
    length = tl.load(lengths_ptr + row, mask=inside, other=0)
    takes_part = length > 1
    leader = tl.min(tl.where(takes_part, row, num_rows))
    leader = tl.where(leader < num_rows, leader, 0)
    common = (tl.min(tl.where(takes_part, length, 1 << 30)) - 1) // BLOCK_SIZE
    common = tl.where(tl.sum(takes_part.to(tl.int32)) > 1, common, 0)
    start = 0
    while start < common:
        at = start + tl.arange(0, CHUNK)
        mask = at < common
        first = tl.load(blocks_ptr + leader.to(tl.int64) * blocks_stride + at, mask=mask, other=0)
        mask = takes_part[:, None] & mask[None, :]
        ids_ptr = blocks_ptr + row.to(tl.int64)[:, None] * blocks_stride + at[None, :]
        differs = mask & (tl.load(ids_ptr, mask=mask, other=0) != first[None, :])
        common = tl.minimum(common, tl.min(tl.where(differs, at[None, :], 1 << 30)))
        start += CHUNK
    keys = common * BLOCK_SIZE
    tl.store(shared_ptr + tl.program_id(0), tl.where(keys < fewest, 0, keys))


@triton.jit(do_not_specialize=["num_rows", "blocks_stride", "cuts"])
def paged_shared(
    found_ptr, lse_ptr, q_ptr, keys_ptr, values_ptr, positions_ptr, table_ptr, blocks_ptr,
    lengths_ptr, shared_ptr, num_rows, blocks_stride, cuts, q_stride, scale, soft_cap, v_scale,
    RUN: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, COMPUTE: tl.constexpr, SOFT_CAP: tl.constexpr,
    ASM: tl.constexpr, ROTATE: tl.constexpr,
):  # fmt: skip
    """Grid (KV_HEADS, runs, cuts): the query heads of one key head of RUN rows.

    Args:
        found_ptr: float32 [runs, cuts, RUN, HEADS, D], and lse_ptr as much of sums' logarithms.
        shared_ptr: int32 [runs], of ``find_shared``.
        scale: as for ``paged_decode``.
    """
    kv_head, run, cut = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    shared = tl.load(shared_ptr + run)
    size = cut_size(shared, cuts)
    begin, end = cut * size, tl.minimum(cut * size + size, shared)
    if begin >= end:
        return
    group: tl.constexpr = HEADS // KV_HEADS
    m = tl.arange(0, M)
    row = run * RUN + m // group
    inside = (m < RUN * group) & (row < num_rows)
    length = tl.load(lengths_ptr + row, mask=inside, other=0)
    # The table of any row that takes part will do.
    leader = tl.min(tl.where(length > 1, row, num_rows))
    head = kv_head * group + m % group
    d = tl.arange(0, WIDTH)[None, :]
    mask = inside[:, None] & (d < D)
    angles_ptr = table_ptr
    if ROTATE:
        position = tl.load(positions_ptr + row, mask=inside, other=0)
        angles_ptr = table_ptr + position[:, None] * (2 * D)
    q = rotated(q_ptr, angles_ptr, (row * q_stride + head * D)[:, None], d, mask, D, ROTATE)
    q = to_compute(q, COMPUTE)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, WIDTH), tl.float32)
    blocks_ptr += leader * blocks_stride
    block = tile_blocks(blocks_ptr, begin, end, TILE, BLOCK_SIZE)
    top, total, acc = attend_keys(
        q, top, total, acc, begin, end, block, keys_ptr, values_ptr, blocks_ptr, kv_head, d,
        scale, soft_cap, KV_HEADS, D, WIDTH, TILE, BLOCK_SIZE, COMPUTE, SOFT_CAP, ASM,
    )  # fmt: skip
    at = ((run * cuts + cut) * RUN + m // group) * HEADS + head
    tl.store(lse_ptr + at, top + tl.log2(total), mask=inside)
    tl.store(found_ptr + at[:, None] * D + d, acc * (v_scale / total)[:, None], mask=mask)
