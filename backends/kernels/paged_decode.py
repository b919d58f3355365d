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

__all__ = ("PART_FIELDS", "attend_keys", "cut_size", "paged_decode", "plan_parts", "tile_blocks")

PART_FIELDS = tl.constexpr(6)
"""Of a part, int32: row (-1 for none), first key, end of keys, its number within the row, how many
parts the row has, and how many keys before them are attended with other rows."""


@triton.jit
def _shared(length, row, shared_ptr, RUN: tl.constexpr):
    """Leading keys that a row has in common with its run of rows; see ``find_shared``."""
    if RUN:
        shared = tl.load(shared_ptr + row // RUN, mask=length > 0, other=0)
        return tl.where(length > shared, shared, 0)
    return length * 0


@triton.jit
def _own(length, row, shared_ptr, WINDOW: tl.constexpr, RUN: tl.constexpr):
    """Keys that the last of ``length`` positions sees, without those attended with other rows."""
    if WINDOW:
        return tl.minimum(length, WINDOW)
    return length - _shared(length, row, shared_ptr, RUN)


@triton.jit(do_not_specialize=["num_rows", "num_parts", "fewest", "most", "one_wave", "waves"])
def plan_parts(
    parts_ptr,
    arrived_ptr,
    lengths_ptr,
    shared_ptr,
    num_rows,
    num_parts,
    fewest,
    most,
    one_wave,
    waves,
    KV_HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    RUN: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Cut each row into parts. Grid (num_rows + 1): one program a row, one for unused parts.

    Args:
        parts_ptr: int32 [num_parts, PART_FIELDS], written.
        arrived_ptr: int32 [num_rows, KV_HEADS], zeroed.
        lengths_ptr: int32 [num_rows]; 0 for a row that gets no part.
        shared_ptr: int32 [runs], of ``find_shared``, if RUN is not 0.
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
        total += tl.sum(_own(length, start + each, shared_ptr, WINDOW, RUN))
    share = tl.minimum(tl.maximum(tl.cdiv(total, one_wave), fewest), most)
    share = tl.cdiv(tl.maximum(share, tl.cdiv(total, waves)), TILE) * TILE
    first = 0
    for start in range(0, row, ROWS):
        length = tl.load(lengths_ptr + start + each, mask=start + each < row, other=0)
        own = _own(length, start + each, shared_ptr, WINDOW, RUN)
        first += tl.sum(tl.cdiv(own, share))
    field = parts_ptr + tl.arange(0, TILE) * PART_FIELDS
    if row == num_rows:
        for part in range(first, num_parts, TILE):
            unused = part + tl.arange(0, TILE) < num_parts
            tl.store(field + part * PART_FIELDS, -1, mask=unused)
        return
    length = tl.load(lengths_ptr + row)
    own = _own(length, row, shared_ptr, WINDOW, RUN)
    count = tl.cdiv(own, share)
    size = tl.cdiv(tl.cdiv(own, tl.maximum(count, 1)), TILE) * TILE
    for start in range(0, count, TILE):
        number = start + tl.arange(0, TILE)
        mask = number < count
        begin = length - own + number * size
        part_ptr = field + (first + start) * PART_FIELDS
        tl.store(part_ptr, row, mask=mask)
        tl.store(part_ptr + 1, begin, mask=mask)
        tl.store(part_ptr + 2, tl.minimum(begin + size, length), mask=mask)
        tl.store(part_ptr + 3, number, mask=mask)
        tl.store(part_ptr + 4, count, mask=mask)
        tl.store(part_ptr + 5, _shared(length, row, shared_ptr, RUN), mask=mask)
    heads = tl.arange(0, triton.next_power_of_2(KV_HEADS))
    tl.store(arrived_ptr + row * KV_HEADS + heads, 0, mask=heads < KV_HEADS)


@triton.jit
def tile_blocks(blocks_ptr, begin, end, TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Blocks of the keys of a tile, int32 [TILE]; past the end that of the last key."""
    position = tl.minimum(begin + tl.arange(0, TILE), end - 1)
    return tl.load(blocks_ptr + position // BLOCK_SIZE)


@triton.jit
def attend_keys(
    q, top, total, acc, begin, end, block, keys_ptr, values_ptr, blocks_ptr, kv_head, d, scale,
    soft_cap, KV_HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, COMPUTE: tl.constexpr, SOFT_CAP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Take keys [begin, end) of a block table into every query's softmax: (top, total, acc).

    ``block`` is what ``tile_blocks`` gives at begin: it is loaded as soon as the pointer is known,
    since the first keys wait for it.

    Bytes are loaded two by two, since matrix operands cannot be transposed a byte at a time; the
    even and the odd elements of a head are then operands of their own.
    """
    PAIRS: tl.constexpr = keys_ptr.dtype.element_ty.primitive_bitwidth == 8
    LOADED: tl.constexpr = D // 2 if PAIRS else D
    AT: tl.constexpr = WIDTH // 2 if PAIRS else WIDTH
    odd_q, odd = q, acc
    if PAIRS:
        q, odd_q = tl.split(q.reshape(q.shape[0], AT, 2))
        acc, odd = tl.split(acc.reshape(q.shape[0], AT, 2))
        d = tl.arange(0, AT)[None, :]
        keys_ptr = keys_ptr.to(tl.pointer_type(tl.int16), bitcast=True)
        values_ptr = values_ptr.to(tl.pointer_type(tl.int16), bitcast=True)
    # Past the end the last key again, since what else stands there may be NaN.
    position = tl.minimum(begin + tl.arange(0, TILE), end - 1)
    for start in range(begin, end, TILE):
        slot = (block.to(tl.int64) * KV_HEADS + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE
        # The next tile's blocks are there before its loads start, so that those run ahead.
        block = tile_blocks(blocks_ptr, start + TILE, end, TILE, BLOCK_SIZE)
        position = tl.minimum(start + TILE + tl.arange(0, TILE), end - 1)
        offsets = slot[:, None] * LOADED + d
        k, odd_k = _operands(load_heads(keys_ptr + offsets, d, LOADED, AT), COMPUTE, PAIRS, ASM)
        scores = tl.dot(q, tl.trans(k), input_precision="tf32x3")
        if PAIRS:
            scores = tl.dot(odd_q, tl.trans(odd_k), scores)
        if SOFT_CAP:
            scores = soft_capped(scores, scale, soft_cap)
        scores = tl.where((start + tl.arange(0, TILE) < end)[None, :], scores, float("-inf"))
        weights, fade, top, total = fold(scores, 1.0 if SOFT_CAP else scale, top, total, False)
        weights = weights.to(COMPUTE)
        v, odd_v = _operands(load_heads(values_ptr + offsets, d, LOADED, AT), COMPUTE, PAIRS, ASM)
        acc = tl.dot(weights, v, acc * fade[:, None], input_precision="tf32x3")
        if PAIRS:
            odd = tl.dot(weights, odd_v, odd * fade[:, None])
    if PAIRS:
        acc = tl.join(acc, odd).reshape(acc.shape[0], WIDTH)
    return top, total, acc


@triton.jit
def _operands(loaded, COMPUTE: tl.constexpr, PAIRS: tl.constexpr, ASM: tl.constexpr):
    """What was loaded in the type of products: the even and the odd bytes of pairs of float8."""
    low, high = loaded, loaded
    if PAIRS:
        if ASM:
            low, high = tl.inline_asm_elementwise(
                """{
                .reg .b32 t; .reg .b16 low, high;
                prmt.b32 t, $2, 0, 0x3120; mov.b32 {low, high}, t;
                cvt.rn.f16x2.e4m3x2 $0, low; cvt.rn.f16x2.e4m3x2 $1, high;
                }""",
                "=r,=r,r", [loaded], (tl.float16, tl.float16), is_pure=True, pack=2,
            )  # fmt: skip
        else:
            low = loaded.to(tl.int8).to(tl.float8e4nv, bitcast=True)
            high = (loaded >> 8).to(tl.int8).to(tl.float8e4nv, bitcast=True)
    return low.to(COMPUTE), high.to(COMPUTE)


@triton.jit(do_not_specialize=["blocks_stride", "cuts"])
def paged_decode(
    out_ptr, q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, slots_ptr, positions_ptr, table_ptr,
    blocks_ptr, parts_ptr, arrived_ptr, found_ptr, found_lse_ptr, shared_found_ptr,
    shared_lse_ptr, blocks_stride, cuts, q_stride, k_stride, v_stride, scale, soft_cap, k_scale,
    v_scale, RUN: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr,
    TILE: tl.constexpr, BLOCK_SIZE: tl.constexpr, COMPUTE: tl.constexpr, SOFT_CAP: tl.constexpr,
    ASM: tl.constexpr, ROTATE: tl.constexpr,
):  # fmt: skip
    """Grid (KV_HEADS, parts): the query heads of one key head over one part of one row.

    The part that ends with the row takes in the new token, which it rotates, writes to the cache
    and uses from registers.

    Args:
        keys_ptr, values_ptr: [blocks, KV_HEADS, BLOCK_SIZE, D].
        found_ptr: float32 [parts, HEADS, D], what parts found.
        found_lse_ptr: float32 [parts, HEADS], logarithms of the parts' sums of weights.
        shared_found_ptr, shared_lse_ptr: what ``paged_shared`` found, if RUN is not 0.
        scale: from products to base-2 logarithms, or for ``soft_capped``; k_scale is in it.
    """
    kv_head = tl.program_id(0)
    part_ptr = parts_ptr + tl.program_id(1) * PART_FIELDS
    row = tl.load(part_ptr).to(tl.int64)
    if row < 0:
        return
    begin, end = tl.load(part_ptr + 1), tl.load(part_ptr + 2)
    number, count = tl.load(part_ptr + 3), tl.load(part_ptr + 4)
    ends = number == count - 1
    end = tl.where(ends, end - 1, end)
    blocks_ptr += row * blocks_stride
    block = tile_blocks(blocks_ptr, begin, end, TILE, BLOCK_SIZE)
    group: tl.constexpr = HEADS // KV_HEADS
    m = tl.arange(0, M)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    angles_ptr = table_ptr
    if ROTATE:
        angles_ptr = table_ptr + tl.load(positions_ptr + row) * (2 * D)
    mask = (m < group) & (d < D)
    q_ptr += row * q_stride + kv_head * group * D
    q = to_compute(rotated(q_ptr, angles_ptr, m * D, d, mask, D, ROTATE), COMPUTE)
    top, total, acc = _new_token(
        q, k_ptr + row * k_stride + kv_head * D, v_ptr + row * v_stride + kv_head * D,
        keys_ptr, values_ptr, slots_ptr + row, angles_ptr, kv_head, d, ends, scale, soft_cap,
        k_scale, v_scale, KV_HEADS, D, BLOCK_SIZE, SOFT_CAP, ROTATE,
    )  # fmt: skip
    acc = tl.broadcast_to(acc, (M, WIDTH))
    top, total, acc = attend_keys(
        q, top, total, acc, begin, end, block, keys_ptr, values_ptr, blocks_ptr, kv_head, d, scale,
        soft_cap, KV_HEADS, D, WIDTH, TILE, BLOCK_SIZE, COMPUTE, SOFT_CAP, ASM,
    )  # fmt: skip
    found = acc * (v_scale / total)[:, None]
    out_ptr += (row * HEADS + kv_head * group) * D
    shared = tl.load(part_ptr + 5)
    if (count == 1) & (shared == 0):
        tl.store(out_ptr + m * D + d, found.to(out_ptr.dtype.element_ty), mask=mask)
        return
    first_head = tl.program_id(1).to(tl.int64) * HEADS + kv_head * group
    found_ptr += first_head * D
    lse_ptr = found_lse_ptr + first_head
    heads = tl.arange(0, M)
    tl.store(lse_ptr + heads, top + tl.log2(total), mask=heads < group)
    tl.store(found_ptr + m * D + d, found, mask=mask)
    # Every thread's stores come before the one thread's release.
    tl.debug_barrier()
    arrived_ptr += row * KV_HEADS + kv_head
    arrived = tl.atomic_add(arrived_ptr, 1, sem="acq_rel")
    if arrived == count - 1:
        tl.store(arrived_ptr, 0)
        _merge(
            out_ptr, found_ptr - number * HEADS * D, lse_ptr - number * HEADS, count,
            shared_found_ptr, shared_lse_ptr, shared, cuts, row, kv_head * group, HEADS, D, WIDTH,
            group, RUN,
        )  # fmt: skip


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
    out_ptr, found_ptr, lse_ptr, count, shared_found_ptr, shared_lse_ptr, shared, cuts, row, head,
    HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    RUN: tl.constexpr,
):  # fmt: skip
    """Weigh what a row's parts found by their share of the softmax; pointers are the first's."""
    ROWS: tl.constexpr = triton.next_power_of_2(GROUP)
    heads = tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    top, total, acc = _merge_parts(
        top, total, acc, found_ptr, lse_ptr, count, HEADS, D, WIDTH, GROUP
    )
    if RUN:
        first = ((row // RUN) * (cuts * RUN) + row % RUN) * HEADS + head
        count = tl.cdiv(shared, cut_size(shared, cuts))
        top, total, acc = _merge_parts(
            top, total, acc, shared_found_ptr + first * D, shared_lse_ptr + first, count,
            RUN * HEADS, D, WIDTH, GROUP,
        )  # fmt: skip
    out = acc / total[:, None]
    mask = (heads < GROUP) & (d < D)
    tl.store(out_ptr + heads * D + d, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _merge_parts(
    top, total, acc, found_ptr, lse_ptr, count, STRIDE: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Take ``count`` parts in, which stand STRIDE heads apart.

    Each part is a tile of its own, so that no thread waits for another: a tile of several would be
    summed up through shared memory, which takes as long as a tile of keys.
    """
    PARTS: tl.constexpr = 8
    head = tl.arange(0, triton.next_power_of_2(GROUP))
    d = tl.arange(0, WIDTH)[None, :]
    for start in range(0, count, PARTS):
        lse = ()
        found = ()
        for part in tl.static_range(PARTS):
            inside = (head < GROUP) & (start + part < count)
            at = (start + part) * STRIDE + head
            # Other processors wrote these: past this one's own cache.
            logs = tl.load(lse_ptr + at, mask=inside, other=float("-inf"), cache_modifier=".cg")
            sums = tl.load(
                found_ptr + at[:, None] * D + d, mask=inside[:, None] & (d < D), other=0.0,
                cache_modifier=".cg",
            )  # fmt: skip
            lse += (logs,)  # type: ignore[assignment]
            found += (sums,)  # type: ignore[assignment]
        new = top
        for part in tl.static_range(PARTS):
            new = tl.maximum(new, lse[part])
        base = tl.where(new == float("-inf"), 0.0, new)
        fade = tl.exp2(top - base)
        acc *= fade[:, None]
        total *= fade
        for part in tl.static_range(PARTS):
            weight = tl.exp2(lse[part] - base)
            acc += found[part] * weight[:, None]
            total += weight
        top = new
    return top, total, acc


@triton.jit
def cut_size(shared, cuts):
    """Keys of each of at most ``cuts`` pieces of a run's shared keys."""
    return tl.cdiv(tl.cdiv(shared, cuts), 64) * 64
