"""Attention of single queries over a paged cache, with long rows split among programs.

After Flash-Decoding (Dao et al., 2023). A row's keys are cut into parts of about the same size over
the whole batch, as in Stream-K (Osama et al., arXiv 2301.03598); ``plan_parts`` does so on the
device, so that a captured step stays balanced as rows grow. Of the programs that share a row, the
one that ends last merges what they found, so that no second launch is needed.
"""

import triton
import triton.language as tl

from .cache_write import load_heads, rotated
from .softmax import fold, soft_capped, to_compute

__all__ = ("PART_FIELDS", "paged_decode", "plan_parts")

PART_FIELDS = tl.constexpr(5)
"""Of a part, int32: row (-1 for none), first key, end of keys, its number within the row, how many
parts the row has."""


@triton.jit
def _seen(length, WINDOW: tl.constexpr):
    """Keys that the last of ``length`` positions sees."""
    return tl.minimum(length, WINDOW) if WINDOW else length


@triton.jit(do_not_specialize=["num_rows", "num_parts", "fewest", "most", "one_wave", "waves"])
def plan_parts(
    parts_ptr,
    arrived_ptr,
    lengths_ptr,
    num_rows,
    num_parts,
    fewest,
    most,
    one_wave,
    waves,
    KV_HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Cut each row into parts. Grid (num_rows + 1): one program a row, one for unused parts.

    Args:
        parts_ptr: int32 [num_parts, PART_FIELDS], written.
        arrived_ptr: int32 [num_rows, KV_HEADS], zeroed.
        lengths_ptr: int32 [num_rows].
        fewest: keys of a part, except that a row may have less.
        most: keys of a part while that makes no more than ``waves`` parts.
        one_wave: parts that run at the same time.
        waves: parts beyond one a row that there are at most.
    """
    row = tl.program_id(0)
    each = tl.arange(0, ROWS)
    total = 0
    for start in range(0, num_rows, ROWS):
        length = tl.load(lengths_ptr + start + each, mask=start + each < num_rows, other=0)
        total += tl.sum(_seen(length, WINDOW))
    share = tl.minimum(tl.maximum(tl.cdiv(total, one_wave), fewest), most)
    share = tl.cdiv(tl.maximum(share, tl.cdiv(total, waves)), TILE) * TILE
    first = 0
    for start in range(0, row, ROWS):
        length = tl.load(lengths_ptr + start + each, mask=start + each < row, other=0)
        first += tl.sum(tl.cdiv(_seen(length, WINDOW), share))
    field = parts_ptr + tl.arange(0, TILE) * PART_FIELDS
    if row == num_rows:
        for part in range(first, num_parts, TILE):
            unused = part + tl.arange(0, TILE) < num_parts
            tl.store(field + part * PART_FIELDS, -1, mask=unused)
        return
    length = tl.load(lengths_ptr + row)
    seen = _seen(length, WINDOW)
    count = tl.cdiv(seen, share)
    size = tl.cdiv(tl.cdiv(seen, count), TILE) * TILE
    for start in range(0, count, TILE):
        number = start + tl.arange(0, TILE)
        mask = number < count
        begin = length - seen + number * size
        part_ptr = field + (first + start) * PART_FIELDS
        tl.store(part_ptr, row, mask=mask)
        tl.store(part_ptr + 1, begin, mask=mask)
        tl.store(part_ptr + 2, tl.minimum(begin + size, length), mask=mask)
        tl.store(part_ptr + 3, number, mask=mask)
        tl.store(part_ptr + 4, count, mask=mask)
    heads = tl.arange(0, triton.next_power_of_2(KV_HEADS))
    tl.store(arrived_ptr + row * KV_HEADS + heads, 0, mask=heads < KV_HEADS)


@triton.jit(do_not_specialize=["blocks_stride"])
def paged_decode(
    out_ptr, q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, slots_ptr, positions_ptr, table_ptr,
    blocks_ptr, parts_ptr, arrived_ptr, found_ptr, found_lse_ptr, blocks_stride, q_stride,
    k_stride, v_stride, scale, soft_cap, k_scale, v_scale, HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr,
    TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr, COMPUTE: tl.constexpr, SOFT_CAP: tl.constexpr,
    ROTATE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (KV_HEADS, parts): the query heads of one key head over one part of one row.

    The part that ends with the row takes in the new token, which it rotates, writes to the cache
    and uses from registers.

    Args:
        keys_ptr, values_ptr: [blocks, KV_HEADS, BLOCK_SIZE, D].
        found_ptr: float32 [parts, HEADS, D], what parts found.
        found_lse_ptr: float32 [parts, HEADS], logarithms of the parts' sums of weights.
        scale: from products to base-2 logarithms, or for ``soft_capped``; k_scale is in it.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    kv_head = tl.program_id(0)
    part_ptr = parts_ptr + tl.program_id(1) * PART_FIELDS
    row = tl.load(part_ptr).to(tl.int64)
    if row < 0:
        return
    begin, end = tl.load(part_ptr + 1), tl.load(part_ptr + 2)
    number, count = tl.load(part_ptr + 3), tl.load(part_ptr + 4)
    group: tl.constexpr = HEADS // KV_HEADS
    m = tl.arange(0, M)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    angles_ptr = table_ptr
    if ROTATE:
        angles_ptr = table_ptr + tl.load(positions_ptr + row) * (2 * D)
    mask = (m < group) & (d < D)
    q_ptr += row * q_stride + kv_head * group * D
    q = to_compute(rotated(q_ptr, angles_ptr, m * D, d, mask, D, ROTATE), COMPUTE)
    ends = number == count - 1
    end = tl.where(ends, end - 1, end)
    top, total, acc = _new_token(
        q, k_ptr + row * k_stride + kv_head * D, v_ptr + row * v_stride + kv_head * D,
        keys_ptr, values_ptr, slots_ptr + row, angles_ptr, kv_head, d, ends, scale, soft_cap,
        k_scale, v_scale, KV_HEADS, D, BLOCK_SIZE, SOFT_CAP, ROTATE,
    )  # fmt: skip
    acc = tl.broadcast_to(acc, (M, WIDTH))
    blocks_ptr += row * blocks_stride
    # Past the end the last key again, since what else stands there may be NaN.
    position = tl.minimum(begin + tl.arange(0, TILE), end - 1)
    block = tl.load(blocks_ptr + position // BLOCK_SIZE)
    for start in range(begin, end, TILE):
        slot = (block.to(tl.int64) * KV_HEADS + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE
        # The next tile's blocks are there before its loads start, so that those run ahead.
        position = tl.minimum(start + TILE + tl.arange(0, TILE), end - 1)
        block = tl.load(blocks_ptr + position // BLOCK_SIZE)
        offsets = slot[:, None] * D + d
        k = load_heads(keys_ptr + offsets, d, D, WIDTH)
        scores = tl.dot(q, tl.trans(k.to(COMPUTE)), input_precision="tf32x3")
        if SOFT_CAP:
            scores = soft_capped(scores, scale, soft_cap)
        scores = tl.where((start + tl.arange(0, TILE) < end)[None, :], scores, float("-inf"))
        weights, top, total, acc = fold(scores, 1.0 if SOFT_CAP else scale, top, total, acc, False)
        v = load_heads(values_ptr + offsets, d, D, WIDTH)
        acc = tl.dot(weights.to(COMPUTE), v.to(COMPUTE), acc, input_precision="tf32x3")
    found = acc * (v_scale / total)[:, None]
    out_ptr += (row * HEADS + kv_head * group) * D
    if count == 1:
        tl.store(out_ptr + m * D + d, found.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        first_head = tl.program_id(1).to(tl.int64) * HEADS + kv_head * group
        _leave(
            found, top + tl.log2(total), found_ptr + first_head * D, found_lse_ptr + first_head,
            out_ptr, arrived_ptr + row * KV_HEADS + kv_head, number, count, HEADS, D, WIDTH, group,
        )  # fmt: skip


@triton.jit
def _leave(
    found, lse, found_ptr, lse_ptr, out_ptr, arrived_ptr, number, count, HEADS: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Leave what a part found to be merged, and merge if the row's other parts have done so."""
    m = tl.arange(0, found.shape[0])
    d = tl.arange(0, WIDTH)[None, :]
    tl.store(lse_ptr + m, lse, mask=m < GROUP)
    tl.store(found_ptr + m[:, None] * D + d, found, mask=(m[:, None] < GROUP) & (d < D))
    # Every thread's stores come before the one thread's release.
    tl.debug_barrier()
    arrived = tl.atomic_add(arrived_ptr, 1, sem="acq_rel")
    if arrived == count - 1:
        tl.store(arrived_ptr, 0)
        found_ptr -= number * HEADS * D
        _merge(out_ptr, found_ptr, lse_ptr - number * HEADS, count, HEADS, D, WIDTH, GROUP)


@triton.jit
def _new_token(
    q, k_ptr, v_ptr, keys_ptr, values_ptr, slot_ptr, angles_ptr, kv_head, d, ends, scale, soft_cap,
    k_scale, v_scale, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SOFT_CAP: tl.constexpr, ROTATE: tl.constexpr,
):  # fmt: skip
    """Cache the token's key and value; a softmax that has seen it, or nothing unless ``ends``."""
    mask = d < D
    k = rotated(k_ptr, angles_ptr, 0, d, mask, D, ROTATE)
    v = tl.load(v_ptr + d, mask=mask, other=0.0).to(tl.float32)
    k = (k / k_scale).to(keys_ptr.dtype.element_ty)
    v = (v / v_scale).to(values_ptr.dtype.element_ty)
    slot = tl.load(slot_ptr)
    block = slot // BLOCK_SIZE
    to = ((block * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE) * D + d
    tl.store(keys_ptr + to, k, mask=mask & ends)
    tl.store(values_ptr + to, v, mask=mask & ends)
    score = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)
    score = soft_capped(score, scale, soft_cap) if SOFT_CAP else score * scale
    top = tl.where(ends, score, float("-inf"))
    total = tl.where(ends, 1.0, tl.zeros_like(score))
    return top, total, tl.where(ends, v.to(tl.float32), 0.0)


@triton.jit
def _merge(
    out_ptr, found_ptr, lse_ptr, count, HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Weigh what ``count`` parts found by their share of the softmax; pointers are the first's."""
    PARTS: tl.constexpr = 8
    ROWS: tl.constexpr = triton.next_power_of_2(GROUP)
    head = tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)[None, :]
    mask = (head[:, None] < GROUP) & (d < D)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, count, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        inside = (part < count) & (head < GROUP)[None, :]
        # Other processors wrote these: past this one's own cache.
        lse = tl.load(
            lse_ptr + part * HEADS + head[None, :], mask=inside, other=float("-inf"),
            cache_modifier=".cg",
        )  # fmt: skip
        found = tl.load(
            found_ptr + (part * HEADS + head[None, :])[:, :, None] * D + d[None],
            mask=inside[:, :, None] & (d < D)[None], other=0.0, cache_modifier=".cg",
        )  # fmt: skip
        new = tl.maximum(top, tl.max(lse, 0))
        base = tl.where(new == float("-inf"), 0.0, new)
        weights, fade = tl.exp2(lse - base[None, :]), tl.exp2(top - base)
        acc = acc * fade[:, None] + tl.sum(found * weights[:, :, None], 0)
        total = total * fade + tl.sum(weights, 0)
        top = new
    out = acc / total[:, None]
    tl.store(out_ptr + head[:, None] * D + d, out.to(out_ptr.dtype.element_ty), mask=mask)
