"""Products of one token, whose depth the warps of a program share.

With one token all that takes time is the way of the weights to the processors: it must be wide, so
many loads are under way, and short, so little comes after. Each warp has a part of the depth of
the same 16 rows. All it reads comes in the order in which the matrix units want it, so that nothing
goes through shared memory and no warp waits for another but once, when their sums are added.
"""

# Tuples that grow while Triton unrolls a loop have no type of mypy's.
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

import triton
import triton.language as tl

from .decode import bytes_of, nibbles, places, zero_line, zero_of

__all__ = ("apart",)


@triton.jit
def _unit_zeros(
    zero, group, DTYPE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, DEEP: tl.constexpr
):
    """What decoding subtracts, of every word of the units; zero is [DEEP, 8, 2], the rows' lines of
    zeros, if these differ."""
    if ZERO:
        zero = zero_of(zero, group[:, None, None], DTYPE, BITS)
        zeros = tl.broadcast_to(zero[:, :, None, None, :, None], (DEEP, 8, 4, 2, 2, 2))
    elif BITS == 8:
        zeros = tl.full((DEEP, 8, 4, 2, 2, 2), -128.0, DTYPE)
    elif tl.bfloat16 == DTYPE:
        zeros = tl.full((DEEP, 8, 4, 2, 2, 2), -136.0, DTYPE)
    else:
        zeros = tl.full((DEEP, 8, 4, 2, 2, 2), -1032.0, DTYPE)
    return zeros


@triton.jit
def _operand(unit, DEEP: tl.constexpr):
    """[DEEP, 8, 4, 2, 2, 2], a unit of words for each part, as operands [DEEP, 16, 16]."""
    return tl.reshape(tl.permute(unit, (0, 4, 1, 3, 2, 5)), (DEEP, 16, 16))


@triton.jit
def _multiplied(words, x, zeros, sums, SLICES: tl.constexpr, DEEP: tl.constexpr, ASM: tl.constexpr):
    """sums + the products of units of words with their inputs, one tile for each slice."""
    words = tl.reshape(words, (DEEP, 8, 4, 2, 2, 2))
    if SLICES == 2:
        low, high = bytes_of(words, zeros)
        sums = tl.dot(_operand(low, DEEP), x[0], sums)
        sums = tl.dot(_operand(high, DEEP), x[1], sums)
    else:
        first, second, third, fourth = nibbles(words, zeros, zeros, False, ASM)
        sums = tl.dot(_operand(first, DEEP), x[0], sums)
        sums = tl.dot(_operand(second, DEEP), x[1], sums)
        sums = tl.dot(_operand(third, DEEP), x[2], sums)
        sums = tl.dot(_operand(fourth, DEEP), x[3], sums)
    return sums


@triton.jit
def _half(
    w_at, scale_at, zero_at, step, STEPS: tl.constexpr, U: tl.constexpr, LINE: tl.constexpr,
    PARTS: tl.constexpr, ALL: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    """The words of a step of each part, its group, scales and lines of zeros; behind the last step
    the last's."""
    present = tl.minimum(step, STEPS - 1)
    at = w_at + (present.to(tl.int64) * (U * LINE))[:, None]
    words = ()
    for u in tl.static_range(U):
        words += (tl.load(at + u * LINE, eviction_policy="evict_first"),)
    group = present // PARTS
    scale = tl.load(scale_at + (group * ALL)[:, None])
    zero = scale
    if ZERO:
        zero = tl.load(zero_at + (zero_line(group, BITS) * ALL)[:, None, None])
    return words, group, scale, zero


@triton.jit
def _weights(
    w_at, scale_at, zero_at, step, N: tl.constexpr, STEPS: tl.constexpr, U: tl.constexpr,
    LINE: tl.constexpr, PARTS: tl.constexpr, ALL: tl.constexpr, BITS: tl.constexpr,
    ZERO: tl.constexpr,
):  # fmt: skip
    """A step of the rows, and behind a gate of those of the other half, which is N rows on."""
    halves = (_half(w_at, scale_at, zero_at, step, STEPS, U, LINE, PARTS, ALL, BITS, ZERO),)
    if ALL > N:
        w_at, scale_at, zero_at = w_at + N * 16, scale_at + N, zero_at + N
        halves += (_half(w_at, scale_at, zero_at, step, STEPS, U, LINE, PARTS, ALL, BITS, ZERO),)
    return halves


@triton.jit
def _inputs(
    x_at, step, K: tl.constexpr, PART: tl.constexpr, STEPS: tl.constexpr, WHOLE: tl.constexpr,
    U: tl.constexpr, SLICES: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """The inputs of a step of each part, nothing behind the last: for each unit a tile a slice.

    A tile is [DEEP, 16, 8], one token eight times: the matrix units take no fewer.
    """
    columns = tl.arange(0, 16)[None, :]
    at = x_at + (tl.minimum(step, STEPS - 1) * PART)[:, None] + columns
    left = (K - step * PART)[:, None]
    if K % 16:
        left = left - columns
    x = ()
    for u in tl.static_range(U):
        unit = ()
        for i in tl.static_range(SLICES):
            start = (u * SLICES + i) * 16
            mask = None if WHOLE else left > start
            tile = tl.load(at + start, mask=mask, other=None if WHOLE else 0)
            unit += (tl.broadcast_to(tile[:, :, None], (DEEP, 16, 8)),)
        x += (unit,)
    return x


@triton.jit
def _step(
    half, x, BITS: tl.constexpr, ZERO: tl.constexpr, U: tl.constexpr, DEEP: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """The products of a step, [DEEP, 16, 8]."""
    words, group, scale, zero = half
    zeros = _unit_zeros(zero, group, x[0][0].dtype, BITS, ZERO, DEEP)
    sums = tl.zeros((DEEP, 16, 8), tl.float32)
    for u in tl.static_range(U):
        sums = _multiplied(words[u], x[u], zeros, sums, 16 // BITS, DEEP, ASM)
    return sums * scale.to(tl.float32)[:, :, None]


@triton.jit
def apart(
    x_ptr, w_ptr, scale_ptr, zero_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
    N: tl.constexpr, K: tl.constexpr, TALL: tl.constexpr, x_stride: tl.constexpr,
    add_stride: tl.constexpr, out_stride: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr, SPLIT: tl.constexpr, DEEP: tl.constexpr,
    AHEAD: tl.constexpr, ASM: tl.constexpr, CONCLUDE: tl.constexpr, ACT: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As ``grouped``'s kernel for one token, with DEEP parts of the depth side by side.

    Weights go to registers, those of AHEAD steps at once, the first of them while the kernel before
    ends.
    """
    SLICES: tl.constexpr = 16 // BITS
    U: tl.constexpr = PART // (16 * SLICES)
    LINE: tl.constexpr = TALL * 16
    ALL: tl.constexpr = N if ACT is None else 2 * N
    STEPS: tl.constexpr = (K + PART - 1) // PART
    SHARE: tl.constexpr = (STEPS + SPLIT * DEEP - 1) // (SPLIT * DEEP)
    WHOLE: tl.constexpr = SPLIT * DEEP * SHARE * PART == K
    token = tl.program_id(0)
    tile = tl.program_id(1)
    part = tl.program_id(2)
    rows = tile * 16 + tl.arange(0, 16)
    begin = (part * DEEP + tl.arange(0, DEEP)) * SHARE
    w_at = w_ptr + tile * 256 + tl.arange(0, 256)[None, :]
    scale_at = scale_ptr + tl.minimum(rows, N - 1)[None, :]
    zero_at = scale_at
    if ZERO:
        zero_at = zero_ptr + places(tile * 16, N, 1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    ahead = ()
    for index in tl.static_range(min(AHEAD, SHARE)):
        ahead += (
            _weights(
                w_at, scale_at, zero_at, begin + index, N, STEPS, U, LINE, PARTS, ALL, BITS, ZERO
            ),
        )
    if PDL:
        # Weights do not depend on the kernel before; everything below may.
        tl.extra.cuda.gdc_wait()
    x_at = x_ptr + token.to(tl.int64) * x_stride
    total = tl.zeros((DEEP, 16, 8), tl.float32)
    gate = total
    for index in tl.static_range(SHARE):
        halves = ahead[0]
        ahead = ahead[1:]
        if index + AHEAD < SHARE:
            step = begin + (index + AHEAD)
            ahead += (
                _weights(w_at, scale_at, zero_at, step, N, STEPS, U, LINE, PARTS, ALL, BITS, ZERO),
            )
        x = _inputs(x_at, begin + index, K, PART, STEPS, WHOLE, U, SLICES, DEEP)
        if ACT is not None:
            gate += _step(halves[0], x, BITS, ZERO, U, DEEP, ASM)
            total += _step(halves[1], x, BITS, ZERO, U, DEEP, ASM)
        else:
            total += _step(halves[0], x, BITS, ZERO, U, DEEP, ASM)
    # All eight columns are the same.
    sums = tl.sum(tl.max(total, 2), 0)[:, None]
    gates = sums
    if ACT is not None:
        gates = tl.sum(tl.max(gate, 2), 0)[:, None]
    tile += token * tl.num_programs(1)
    CONCLUDE(
        sums, gates, rows, token + tl.arange(0, 1), tile, part, bias_ptr, add_ptr, out_ptr,
        partial_ptr, counter_ptr, token + 1, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip
