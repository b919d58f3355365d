"""Words of ``layout`` to operands of the matrix units, as Triton functions.

A tile of words is [U, R, 8, 4, 2, 2, 2]: units of columns, of rows, and the bits of a thread's
number and of a word's place in it. A word holds several codes, so a tile gives several operands.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq

__all__ = (
    "bytes_of",
    "group_of",
    "nibbles",
    "operand",
    "places",
    "released",
    "row_vector",
    "settled",
    "tile_zeros",
    "whole",
    "zero_line",
    "zero_of",
)


@triton.jit
def places(first, N: tl.constexpr, R: tl.constexpr):
    """[R, 8, 2], the rows from the first on (units, t // 4, half), none behind the last."""
    rows = tl.arange(0, R)[:, None, None] * 16 + tl.arange(0, 8)[None, :, None]
    return tl.minimum(first + rows + tl.arange(0, 2)[None, None, :] * 8, N - 1)


@triton.jit
def zero_line(group, BITS: tl.constexpr):
    """Where ``Packed.zeros`` has a group's zero points."""
    if BITS == 4:
        group = group // 4
    return group


@triton.jit
def zero_of(zero, group, DTYPE: tl.constexpr, BITS: tl.constexpr):
    """What ``nibbles`` and ``bytes_of`` subtract in a group, of what its line holds."""
    if BITS == 4:
        # -128 is 0xc300 in bfloat16, -1024 is 0xe400 in float16: what stands in the last bits makes
        # them less by as much.
        BASE: tl.constexpr = -0x3D00 if tl.bfloat16 == DTYPE else -0x1C00
        zero = ((zero >> (group % 4 * 4)) & 15) + BASE
        zero = zero.to(tl.int16).to(DTYPE, bitcast=True)
    return zero


@triton.jit
def group_of(
    scale_at, zero_ptr, group, place, N: tl.constexpr, ALL: tl.constexpr, BITS: tl.constexpr,
    ZERO: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """A group, scales and lines of zeros of its rows, of ALL, then those of the other half, which
    is N rows on.

    What there is not is the scales once more. Lines are decoded when they are used: whoever loads
    them a step ahead would wait for them here.
    """
    scale_at += group * ALL
    scale = tl.load(scale_at)
    zero, up_scale, up_zero = scale, scale, scale
    line = place + zero_line(group, BITS) * ALL
    if ZERO:
        zero = tl.load(zero_ptr + line)
    if GATED:
        up_scale = tl.load(scale_at + N)
        if ZERO:
            up_zero = tl.load(zero_ptr + N + line)
    return group, scale, zero, up_scale, up_zero


@triton.jit
def nibbles(words, zero, scale, FOLD: tl.constexpr, ASM: tl.constexpr):
    """Four operands (code - zero), times scale if FOLD, of 4-bit codes, in zero's dtype.

    Args:
        words: int16 tile.
        zero: -(128 + zero) in bfloat16 or -(1024 + zero) in float16, for the tile. Codes in the
            last bits of these numbers make them greater by the code, so one instruction puts two
            codes into floats and another subtracts, both without rounding.
        scale: of the same dtype and shape; unused without FOLD.
    """
    if ASM:
        if zero.dtype == tl.bfloat16:
            if FOLD:
                a, b, c, d = tl.inline_asm_elementwise(
                    """{
                    .reg .b32 t, m, o, n;
                    mov.b32 m, 0x43004300; mov.b32 o, 0x3f803f80; mov.b32 n, 0x80008000;
                    lop3.b32 t, $4, 0x000f000f, m, 0xea;
                    fma.rn.bf16x2 t, t, o, $5; fma.rn.bf16x2 $0, t, $6, n;
                    shr.u32 t, $4, 4; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    fma.rn.bf16x2 t, t, o, $5; fma.rn.bf16x2 $1, t, $6, n;
                    shr.u32 t, $4, 8; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    fma.rn.bf16x2 t, t, o, $5; fma.rn.bf16x2 $2, t, $6, n;
                    shr.u32 t, $4, 12; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    fma.rn.bf16x2 t, t, o, $5; fma.rn.bf16x2 $3, t, $6, n;
                    }""",
                    "=&r,=&r,=&r,=&r,r,r,r", [words, zero, scale],
                    (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
                )  # fmt: skip
            else:
                a, b, c, d = tl.inline_asm_elementwise(
                    """{
                    .reg .b32 t, m, o;
                    mov.b32 m, 0x43004300; mov.b32 o, 0x3f803f80;
                    lop3.b32 t, $4, 0x000f000f, m, 0xea; fma.rn.bf16x2 $0, t, o, $5;
                    shr.u32 t, $4, 4;
                    lop3.b32 t, t, 0x000f000f, m, 0xea; fma.rn.bf16x2 $1, t, o, $5;
                    shr.u32 t, $4, 8;
                    lop3.b32 t, t, 0x000f000f, m, 0xea; fma.rn.bf16x2 $2, t, o, $5;
                    shr.u32 t, $4, 12;
                    lop3.b32 t, t, 0x000f000f, m, 0xea; fma.rn.bf16x2 $3, t, o, $5;
                    }""",
                    "=&r,=&r,=&r,=&r,r,r", [words, zero],
                    (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
                )  # fmt: skip
        else:
            if FOLD:
                a, b, c, d = tl.inline_asm_elementwise(
                    """{
                    .reg .b32 t, m;
                    mov.b32 m, 0x64006400;
                    lop3.b32 t, $4, 0x000f000f, m, 0xea;
                    add.rn.f16x2 t, t, $5; mul.rn.f16x2 $0, t, $6;
                    shr.u32 t, $4, 4; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    add.rn.f16x2 t, t, $5; mul.rn.f16x2 $1, t, $6;
                    shr.u32 t, $4, 8; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    add.rn.f16x2 t, t, $5; mul.rn.f16x2 $2, t, $6;
                    shr.u32 t, $4, 12; lop3.b32 t, t, 0x000f000f, m, 0xea;
                    add.rn.f16x2 t, t, $5; mul.rn.f16x2 $3, t, $6;
                    }""",
                    "=&r,=&r,=&r,=&r,r,r,r", [words, zero, scale],
                    (tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
                )  # fmt: skip
            else:
                a, b, c, d = tl.inline_asm_elementwise(
                    """{
                    .reg .b32 t, m;
                    mov.b32 m, 0x64006400;
                    lop3.b32 t, $4, 0x000f000f, m, 0xea; add.rn.f16x2 $0, t, $5;
                    shr.u32 t, $4, 4; lop3.b32 t, t, 0x000f000f, m, 0xea; add.rn.f16x2 $1, t, $5;
                    shr.u32 t, $4, 8; lop3.b32 t, t, 0x000f000f, m, 0xea; add.rn.f16x2 $2, t, $5;
                    shr.u32 t, $4, 12; lop3.b32 t, t, 0x000f000f, m, 0xea; add.rn.f16x2 $3, t, $5;
                    }""",
                    "=&r,=&r,=&r,=&r,r,r", [words, zero],
                    (tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
                )  # fmt: skip
    else:
        a = _nibble(words, zero, scale, FOLD)
        b = _nibble(words >> 4, zero, scale, FOLD)
        c = _nibble(words >> 8, zero, scale, FOLD)
        d = _nibble(words >> 12, zero, scale, FOLD)
    return a, b, c, d


@triton.jit
def _nibble(words, zero, scale, FOLD: tl.constexpr):
    OFFSET: tl.constexpr = 128.0 if zero.dtype == tl.bfloat16 else 1024.0
    y = (words & 15).to(tl.float32) + (zero.to(tl.float32) + OFFSET)
    if FOLD:
        y *= scale.to(tl.float32)
    return y.to(zero.dtype)


@triton.jit
def bytes_of(words, zero):
    """Two operands (code - zero) of 8-bit codes, in zero's dtype; zero is of the tile, negated."""
    # 2^23 in float32 counts in its last bits; a conversion would take a slower instruction.
    offset = zero.to(tl.float32) - 8388608.0
    low = ((words & 255).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    high = (((words >> 8) & 255).to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
    return (low + offset).to(zero.dtype), (high + offset).to(zero.dtype)


@triton.jit
def operand(tile, R: tl.constexpr, U: tl.constexpr):
    """A tile as an operand [rows, columns]: 16 columns of every unit."""
    return tl.reshape(tl.permute(tile, (1, 5, 2, 0, 4, 3, 6)), (R * 16, U * 16))


@triton.jit
def whole(tile, R: tl.constexpr, U: tl.constexpr, SLICES: tl.constexpr):
    """A tile of joined operands [..., slices by halves] as one operand [rows, columns]."""
    if SLICES == 2:
        tile = tl.permute(tile, (1, 5, 2, 0, 7, 4, 3, 6))
    else:
        tile = tl.permute(tile, (1, 5, 2, 0, 8, 7, 4, 3, 6))
    return tl.reshape(tile, (R * 16, U * 16 * SLICES))


@triton.jit
def row_vector(values, R: tl.constexpr, U: tl.constexpr):
    """[R, 8, 2], a value a row (units, t // 4, half), for every word of a tile."""
    values = values[None, :, :, None, None, :, None]
    return tl.broadcast_to(values, (U, R, 8, 4, 2, 2, 2))


@triton.jit
def tile_zeros(
    values, group, DTYPE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
    R: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """What decoding subtracts, of every word of a tile; values are the rows' lines of zeros, if
    these differ."""
    if ZERO:
        values = row_vector(zero_of(values, group, DTYPE, BITS), R, U)
    elif BITS == 8:
        values = tl.full((U, R, 8, 4, 2, 2, 2), -128.0, DTYPE)
    elif tl.bfloat16 == DTYPE:
        values = tl.full((U, R, 8, 4, 2, 2, 2), -136.0, DTYPE)
    else:
        values = tl.full((U, R, 8, 4, 2, 2, 2), -1032.0, DTYPE)
    return values


@triton.jit
def settled(total, HOPPER: tl.constexpr):
    """Sums that are complete when the next step begins, for Hopper.

    Its matrix units read an operand's registers while they run. Triton's pipeline lets them run on
    into the next step, which by then has other weights in these registers.
    """
    if HOPPER:
        total = tl.inline_asm_elementwise("", "=f,0", [total], tl.float32, is_pure=False, pack=1)
    return total


@triton.jit
def released(words, HOPPER: tl.constexpr):
    """Words to decode, once the registers that operands go to may be written: see ``settled``.

    What a step does before it decodes goes on beside the products of the one before.
    """
    if HOPPER and not cuda_capability_geq(10):
        tl.inline_asm_elementwise(
            "wgmma.wait_group.sync.aligned 0; // $0", "=r", [], tl.int32, is_pure=False, pack=1
        )
        # Decoding depends on this, which stays behind the wait.
        words = tl.inline_asm_elementwise("", "=r,0", [words], tl.int16, is_pure=False, pack=2)
    return words
