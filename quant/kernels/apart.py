"""Products with few tokens, whose depth the warps of a program share.

With a row or a few, all that takes time is the way of the weights to the processors: it must be
wide, so many loads are under way, and short, so little comes after. Each warp has a part of the
depth of the same few rows; their sums meet in shared memory, with no other program to wait for.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .decode import bytes_of, group_of, nibbles, operands, places, row_vectors

__all__ = ("apart",)


@triton.jit
def _zeros(
    values, DTYPE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, R: tl.constexpr,
    U: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """What decoding subtracts, of every word of the tiles; values are the rows' if they differ."""
    if ZERO:
        zeros = row_vectors(values, R, U, DEEP)
    elif BITS == 8:
        zeros = tl.full((DEEP, U, R, 8, 4, 2, 2, 2), -128.0, DTYPE)
    elif tl.bfloat16 == DTYPE:
        zeros = tl.full((DEEP, U, R, 8, 4, 2, 2, 2), -136.0, DTYPE)
    else:
        zeros = tl.full((DEEP, U, R, 8, 4, 2, 2, 2), -1032.0, DTYPE)
    return zeros


@triton.jit
def _step(
    words, a, b, c, d, zero, SLICES: tl.constexpr, R: tl.constexpr, U: tl.constexpr,
    DEEP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The products of a step, [DEEP, rows, tokens]; a to d are inputs, a tile for each slice."""
    words = tl.reshape(words, (DEEP, U, R, 8, 4, 2, 2, 2))
    if SLICES == 2:
        low, high = bytes_of(words, zero)
        y = tl.dot(operands(low, R, U, DEEP), a)
        y = tl.dot(operands(high, R, U, DEEP), b, y)
    else:
        first, second, third, fourth = nibbles(words, zero, zero, False, ASM)
        y = tl.dot(operands(first, R, U, DEEP), a)
        y = tl.dot(operands(second, R, U, DEEP), b, y)
        y = tl.dot(operands(third, R, U, DEEP), c, y)
        y = tl.dot(operands(fourth, R, U, DEEP), d, y)
    return y


@triton.jit
def _words(w_at, step, STEPS: tl.constexpr, STRIDE: tl.constexpr):
    """The words of a step of each part."""
    present = tl.minimum(step, STEPS - 1).to(tl.int64)
    return tl.load(w_at + present[:, None, None] * STRIDE, eviction_policy="evict_first")


@triton.jit
def _inputs(
    x_at, columns, inside, step, K: tl.constexpr, PART: tl.constexpr, STEPS: tl.constexpr,
    SLICES: tl.constexpr,
):  # fmt: skip
    """The inputs of a step of each part, a tile for each slice; behind the last step nothing."""
    x_now = x_at + (tl.minimum(step, STEPS - 1) * PART)[:, None, None]
    left = (K - step * PART)[:, None, None]
    shown = columns[None, :, None]
    a = tl.load(x_now, mask=inside & (shown < left), other=0)
    b = tl.load(x_now + 16, mask=inside & (shown + 16 < left), other=0)
    c, d = a, b
    if SLICES == 4:
        c = tl.load(x_now + 32, mask=inside & (shown + 32 < left), other=0)
        d = tl.load(x_now + 48, mask=inside & (shown + 48 < left), other=0)
    return a, b, c, d


@triton.jit(do_not_specialize=["M"])
def apart(
    x_ptr, w_ptr, scale_ptr, zero_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, TALL: tl.constexpr, x_stride: tl.constexpr,
    add_stride: tl.constexpr, out_stride: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    SPLIT: tl.constexpr, DEEP: tl.constexpr, ASM: tl.constexpr, CONCLUDE: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As ``grouped``'s kernel, with DEEP parts of the depth side by side.

    Weights go to registers and not through shared memory, a step ahead, the first of them while
    the kernel before ends.
    """
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    SLICES: tl.constexpr = 16 // BITS
    R: tl.constexpr = ROWS // 16
    U: tl.constexpr = PART // (16 * SLICES)
    LINE: tl.constexpr = TALL * 16
    ALL: tl.constexpr = N if ACT is None else 2 * N
    STEPS: tl.constexpr = (K + PART - 1) // PART
    SHARE: tl.constexpr = (STEPS + SPLIT * DEEP - 1) // (SPLIT * DEEP)
    tile = tl.program_id(1)
    part = tl.program_id(2)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    begin = (part * DEEP + tl.arange(0, DEEP)) * SHARE
    w_at = w_ptr + tile * (R * 256) + tl.arange(0, R * 256)[None, None, :]
    w_at += tl.arange(0, U)[None, :, None] * LINE
    columns = tl.arange(0, U * 16) // 16 * (16 * SLICES) + tl.arange(0, U * 16) % 16
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, None, :] * x_stride
    x_at += columns[None, :, None]
    inside = (tokens < M)[None, None, :]
    scale_at = scale_ptr + tl.minimum(rows, N - 1)[None, :]
    place = places(tile * ROWS, N, R)[None, :, :, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    w_next = _words(w_at, begin, STEPS, U * LINE)
    up_next = w_next
    if ACT is not None:
        up_next = _words(w_at + N * 16, begin, STEPS, U * LINE)
    group = tl.minimum(begin, STEPS - 1) // PARTS * ALL
    place_now = place + group[:, None, None, None]
    ahead = group_of(scale_at + group[:, None], zero_ptr, place_now, N, ZERO, ACT is not None)
    if PDL:
        # Weights do not depend on the kernel before; everything below may.
        tl.extra.cuda.gdc_wait()
    x_next = _inputs(x_at, columns, inside, begin, K, PART, STEPS, SLICES)
    total = tl.zeros((DEEP, ROWS, TOKENS), tl.float32)
    gate = total
    for index in tl.static_range(SHARE):
        w, up = w_next, up_next
        a, b, c, d = x_next
        scale, zero, up_scale, up_zero = ahead
        if index + 1 < SHARE:
            step = begin + (index + 1)
            w_next = _words(w_at, step, STEPS, U * LINE)
            if ACT is not None:
                up_next = _words(w_at + N * 16, step, STEPS, U * LINE)
            x_next = _inputs(x_at, columns, inside, step, K, PART, STEPS, SLICES)
            group = tl.minimum(step, STEPS - 1) // PARTS * ALL
            place_now = place + group[:, None, None, None]
            at = scale_at + group[:, None]
            ahead = group_of(at, zero_ptr, place_now, N, ZERO, ACT is not None)
        scale = scale.to(tl.float32)[:, :, None]
        zeros = _zeros(zero, DTYPE, BITS, ZERO, R, U, DEEP)
        if ACT is not None:
            gate += _step(w, a, b, c, d, zeros, SLICES, R, U, DEEP, ASM) * scale
            w, scale = up, up_scale.to(tl.float32)[:, :, None]
            zeros = _zeros(up_zero, DTYPE, BITS, ZERO, R, U, DEEP)
        total += _step(w, a, b, c, d, zeros, SLICES, R, U, DEEP, ASM) * scale
    sums = tl.sum(total, 0)
    gates = sums
    if ACT is not None:
        gates = tl.sum(gate, 0)
    tile += tl.program_id(0) * tl.num_programs(1)
    CONCLUDE(
        sums, gates, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
        M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip
