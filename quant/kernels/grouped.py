"""x @ W.T for integer weights with a scale a group of columns, without their being written out.

Weights are the tall side of the matrix units, tokens the short one, as in the platform's products
of few rows; see ``layout`` for the order that weights are in and ``decode`` for how they become
operands. Two ways to apply scales:

- *after*: a group's products are summed up by themselves and the sum is scaled in float32. For few
  tokens, where the sums are few.
- *folded*: operands are scaled before they are multiplied, and rounded to the activations' type.
  For many tokens, where one chain of products must run without a pause.

A token's result depends on the Config and not on the other tokens or their number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...core.contracts.platform import Kernels
from .apart import apart
from .decode import (
    bytes_of,
    group_of,
    nibbles,
    operand,
    places,
    released,
    row_vector,
    tile_zeros,
    whole,
)
from .packed import Packed
from .tiles import Config, output, shared_depth

__all__ = ("multiply",)


@triton.jit
def _inputs(
    x_at, mask, SLICES: tl.constexpr, WHOLE: tl.constexpr, EDGE: tl.constexpr, columns, left
):
    """The inputs of a step: as one tile, or one for each slice of the words."""
    if WHOLE:
        if EDGE:
            mask = mask & (columns < left)[:, None]
        a = tl.load(x_at, mask=mask, other=0)
        x = (a, a, a, a)
    else:
        a = _slice(x_at, mask, 0, EDGE, columns, left)
        b = _slice(x_at, mask, 16, EDGE, columns, left)
        x = (a, b, a, b)
        if SLICES == 4:
            c = _slice(x_at, mask, 32, EDGE, columns, left)
            d = _slice(x_at, mask, 48, EDGE, columns, left)
            x = (a, b, c, d)
    return x


@triton.jit
def _slice(x_at, mask, START: tl.constexpr, EDGE: tl.constexpr, columns, left):
    if EDGE:
        mask = mask & (START + columns < left)[:, None]
    return tl.load(x_at + START, mask=mask, other=0)


@triton.jit
def _step(
    words, x, zero, scale, total, SLICES: tl.constexpr, R: tl.constexpr, U: tl.constexpr,
    WHOLE: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """total + the products of a step; without FOLD of a step by itself."""
    words = tl.reshape(words, (U, R, 8, 4, 2, 2, 2))
    if SLICES == 2:
        a, b = bytes_of(words, zero)
        if WHOLE:
            total = tl.dot(whole(tl.join(a, b), R, U, 2), x[0], total)
        else:
            total = tl.dot(operand(a, R, U), x[0], total)
            total = tl.dot(operand(b, R, U), x[1], total)
    else:
        a, b, c, d = nibbles(words, zero, scale, FOLD, ASM)
        if WHOLE:
            joined = tl.join(tl.join(a, b), tl.join(c, d))
            total = tl.dot(whole(joined, R, U, 4), x[0], total)
        else:
            total = tl.dot(operand(a, R, U), x[0], total)
            total = tl.dot(operand(b, R, U), x[1], total)
            total = tl.dot(operand(c, R, U), x[2], total)
            total = tl.dot(operand(d, R, U), x[3], total)
    return total


@triton.jit
def _words(at, N: tl.constexpr, GATED: tl.constexpr):
    """The words of a step, and behind a gate those of the other half, which is N rows on."""
    w = tl.load(at, eviction_policy="evict_first")
    up = w
    if GATED:
        up = tl.load(at + N * 16, eviction_policy="evict_first")
    return w, up


@triton.jit
def _both(
    words, x, group, total, gate, DTYPE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
    R: tl.constexpr, U: tl.constexpr, WHOLE: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr,
    GATED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """(total, gate) and the products of a step of both halves, of which a product without a gate
    has one; group is of ``group_of``."""
    SLICES: tl.constexpr = 16 // BITS
    w, up = words
    at, scale, zero, up_scale, up_zero = group
    zero = tile_zeros(zero, at, DTYPE, BITS, ZERO, R, U)
    if FOLD:
        w, scale = released(w, PDL), row_vector(scale.to(DTYPE), R, U)
        if GATED:
            gate = _step(w, x, zero, scale, gate, SLICES, R, U, WHOLE, FOLD, ASM)
            w, scale = released(up, PDL), row_vector(up_scale.to(DTYPE), R, U)
            zero = tile_zeros(up_zero, at, DTYPE, BITS, ZERO, R, U)
        total = _step(w, x, zero, scale, total, SLICES, R, U, WHOLE, FOLD, ASM)
    else:
        none = tl.zeros_like(total)
        scale = scale.to(tl.float32)[:, None]
        if GATED:
            gate += _step(w, x, zero, zero, none, SLICES, R, U, WHOLE, FOLD, ASM) * scale
            w, scale = up, up_scale.to(tl.float32)[:, None]
            zero = tile_zeros(up_zero, at, DTYPE, BITS, ZERO, R, U)
        total += _step(w, x, zero, zero, none, SLICES, R, U, WHOLE, FOLD, ASM) * scale
    return total, gate


@triton.jit(do_not_specialize=["M"])
def _product(
    x_ptr, w_ptr, scale_ptr, zero_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, TALL: tl.constexpr, x_stride: tl.constexpr,
    add_stride: tl.constexpr, out_stride: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    SPLIT: tl.constexpr, HELD: tl.constexpr, FOLD: tl.constexpr, WHOLE: tl.constexpr,
    ASM: tl.constexpr, CONCLUDE: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """N rows of the weights, or behind a gate of either half; TALL of all, in whole units.

    While the kernel before ends, words of the last HELD steps and scales of the first are read.
    """
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    SLICES: tl.constexpr = 16 // BITS
    UNIT: tl.constexpr = 16 * SLICES
    R: tl.constexpr = ROWS // 16
    U: tl.constexpr = PART // UNIT
    LINE: tl.constexpr = TALL * 16
    GATED: tl.constexpr = ACT is not None
    ALL: tl.constexpr = 2 * N if GATED else N
    STEPS: tl.constexpr = (K + PART - 1) // PART
    tile = tl.program_id(1)
    part = tl.program_id(2)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    share = tl.cdiv(STEPS, SPLIT)
    first = part * share
    last = tl.minimum(first + share, STEPS)
    w_at = w_ptr + (first * U).to(tl.int64) * LINE + tile * (R * 256)
    w_at += tl.arange(0, U)[:, None] * LINE + tl.arange(0, R * 256)[None, :]
    if WHOLE:
        columns = tl.arange(0, PART)
    else:
        columns = tl.arange(0, U * 16) // 16 * UNIT + tl.arange(0, U * 16) % 16
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, :] * x_stride + columns[:, None]
    x_at += first * PART
    inside = (tokens < M)[None, :]
    # A row's place in a tile of words, and in one of sums.
    tall = tl.minimum(rows, N - 1)
    place = places(tile * ROWS, N, R)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    held_at = w_at + (last - HELD - first).to(tl.int64) * (U * LINE)
    held = ()
    for index in tl.static_range(HELD):
        held += (_words(held_at + index * (U * LINE), N, GATED),)  # type: ignore[assignment]
    # Scales and zeros are loaded a step ahead.
    group = tl.minimum(first, STEPS - 1) // PARTS
    scale_at = scale_ptr + (place if FOLD else tall)
    ahead = group_of(scale_at, zero_ptr, group, place, N, ALL, BITS, ZERO, GATED)
    if PDL:
        # Weights do not depend on the kernel before; everything below may.
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    gate = total
    for step in range(first, last - HELD):
        words = _words(w_at, N, GATED)
        x = _inputs(x_at, inside, SLICES, WHOLE, K % PART != 0, columns, K - step * PART)
        now = ahead
        group = tl.minimum(step + 1, last - 1) // PARTS
        ahead = group_of(scale_at, zero_ptr, group, place, N, ALL, BITS, ZERO, GATED)
        total, gate = _both(
            words, x, now, total, gate, DTYPE, BITS, ZERO, R, U, WHOLE, FOLD, ASM, GATED, PDL
        )
        w_at += U * LINE
        x_at += PART
    for index in tl.static_range(HELD):
        step = last - HELD + index
        x = _inputs(x_at, inside, SLICES, WHOLE, K % PART != 0, columns, K - step * PART)
        now = ahead
        group = tl.minimum(step + 1, last - 1) // PARTS
        ahead = group_of(scale_at, zero_ptr, group, place, N, ALL, BITS, ZERO, GATED)
        total, gate = _both(
            held[index], x, now, total, gate, DTYPE, BITS, ZERO, R, U, WHOLE, FOLD, ASM, GATED, PDL
        )
        x_at += PART
    tile += tl.program_id(0) * tl.num_programs(1)
    CONCLUDE(
        total, gate, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
        M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip


def multiply(
    x: torch.Tensor,
    weight: Packed,
    config: Config,
    kernels: Kernels,
    *,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """add + gate(x @ W.T + bias); what is None is left out.

    Launches that share a depth must follow one another on one stream: they share counters.

    Args:
        x: [M, K], rows contiguous, bfloat16 or float16, as all else.
        weight: [N, K]; behind a gate the gate's rows, then the other half's, each a multiple of 16.
        config: any but "dense"; "folded" is for 4 bits.
        kernels: the platform's.
        bias: [N].
        act: a ``Gate.act``; the product's first half goes through it and gates the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.

    Returns:
        [M, N] or [M, N / 2], in x's dtype; add itself if it was given and is not x.
    """
    count = x.shape[0]
    width = weight.n if act is None else weight.n // 2
    out = output(x, width, add)
    if not count:
        return out
    rows, split, fold = config.rows, config.split, config.form == "folded"
    grid = (-(-count // config.tokens), -(-width // rows), split)
    partial, arrived = shared_depth(config, grid, kernels, x.device, 1 if act is None else 2)
    part, parts = weight.part, weight.parts
    if fold and part == 128:
        part, parts = 64, 2 * parts
    around = (
        not x.is_cpu,
        kernels.conclude,
        None if act is None else kernels.activations[act],
        bias is not None,
        add is not None,
        kernels.overlaps,
    )
    memory = (x, weight.words, weight.scales, weight.zeros, bias, add, out, partial, arrived)
    shape = (
        width,
        weight.k,
        -(-weight.n // 16) * 16,
        x.stride(0),
        0 if add is None else add.stride(0),
        out.stride(0),
        weight.bits,
        weight.zeros is not None,
        part,
        parts,
    )
    options = {"num_warps": config.warps, "launch_pdl": kernels.overlaps}
    if config.form == "apart":
        warps = (split, config.warps, config.stages)
        kernels.launch(apart, grid, *memory, *shape, *warps, *around, num_stages=1, **options)
    else:
        # One matrix instruction of Hopper takes all the columns of a step; the older ones take
        # their operands from the words as they come.
        hopper = config.tokens >= 16 and rows % 64 == 0 and config.warps % 4 == 0
        hopper = hopper and (kernels.overlaps or x.is_cpu)
        cut = (rows, config.tokens, split, _held(config, weight.k, part), fold, hopper)
        options["num_stages"] = config.stages
        kernels.launch(_product, grid, *memory, count, *shape, *cut, *around, **options)
    return out


def _held(config: Config, k: int, part: int) -> int:
    """Steps to hold: no more than the program with fewest has."""
    steps = -(-k // part)
    each = -(-steps // config.split)
    return max(min(config.held, steps - each * (config.split - 1)), 0)
