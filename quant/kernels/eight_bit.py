"""x @ W.T for 8-bit weights as they are stored, and few tokens in 16 bits.

Weights are read once, become the activations' type on their way to the matrix units, which is
exact, and sums are scaled in float32; nothing is rounded that a product of 16-bit weights would not
round.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...core.contracts.platform import Kernels
from .decode import settled
from .tiles import Config, output, shared_depth

__all__ = ("multiply",)


@triton.jit
def _wide(w, DTYPE: tl.constexpr):
    """8-bit values in the activations' type: int8, float8, or float8's bits as uint8."""
    if w.dtype == tl.int8:
        # 2^23 + 128 + value in float32; a conversion would take a slower instruction.
        bits = (w.to(tl.int32) & 255) ^ 0x4B000080
        y = (bits.to(tl.float32, bitcast=True) - 8388736.0).to(DTYPE)
    elif w.dtype == tl.uint8:
        # Sign, exponent and fraction where float16 has them: the value times 2^-8.
        bits = ((w & 0x80).to(tl.int16) << 8) | ((w & 0x7F).to(tl.int16) << 7)
        y = (bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0).to(DTYPE)
    else:
        y = w.to(DTYPE)
    return y


@triton.jit
def _load(w_at, mask, EDGE: tl.constexpr):
    if EDGE:
        w = tl.load(w_at, mask=mask, other=0.0, eviction_policy="evict_first")
    else:
        w = tl.load(w_at, eviction_policy="evict_first")
    return w


@triton.jit(do_not_specialize=["M"])
def _product(
    x_ptr, w_ptr, scale_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, x_stride: tl.constexpr, add_stride: tl.constexpr,
    out_stride: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
    TOKENS: tl.constexpr, SPLIT: tl.constexpr, CONCLUDE: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """N rows of the weights, or behind a gate of either half; BLOCK of them and of the columns
    share a scale, or each row has its own where BLOCK is 0."""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    EDGE: tl.constexpr = K % DEPTH != 0
    tile = tl.program_id(1)
    part = tl.program_id(2)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1)
    columns = tl.arange(0, DEPTH)
    share = tl.cdiv(tl.cdiv(K, DEPTH), SPLIT) * DEPTH
    first = part * share
    last = tl.minimum(first + share, K)
    w_at = w_ptr + inside.to(tl.int64)[:, None] * K + columns[None, :]
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, :] * x_stride + columns[:, None]
    some = (tokens < M)[None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    gate = total
    for k in range(first, last, DEPTH):
        left = columns < K - k
        w = _load(w_at + k, left[None, :], EDGE)
        if EDGE:
            x = tl.load(x_at + k, mask=some & left[:, None], other=0)
        else:
            x = tl.load(x_at + k, mask=some, other=0)
        if ACT is not None:
            up = _load(w_at + N * K + k, left[None, :], EDGE)
        if BLOCK:
            scale_at = scale_ptr + k // BLOCK
            if ACT is not None:
                scale = tl.load(scale_at + inside // BLOCK * tl.cdiv(K, BLOCK))
                gate += tl.dot(_wide(w, DTYPE), x) * scale[:, None]
                w = up
                scale_at += N // BLOCK * tl.cdiv(K, BLOCK)
            scale = tl.load(scale_at + inside // BLOCK * tl.cdiv(K, BLOCK))
            total += tl.dot(_wide(w, DTYPE), x) * scale[:, None]
        else:
            if ACT is not None:
                gate = tl.dot(_wide(w, DTYPE), x, gate)
                w = up
            total = tl.dot(_wide(w, DTYPE), x, total)
            total = settled(total, PDL)
    if BLOCK == 0:
        if ACT is not None:
            gate *= tl.load(scale_ptr + inside)[:, None]
            scale_ptr += N
        total *= tl.load(scale_ptr + inside)[:, None]
    tile += tl.program_id(0) * tl.num_programs(1)
    CONCLUDE(
        total, gate, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
        M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip


@triton.jit
def _stream(w_ptr, rows, columns, K: tl.constexpr, EDGE: tl.constexpr):
    """A tile of the weights, read once and not kept."""
    return _load(w_ptr + rows * K + columns, columns < K, EDGE)


@triton.jit
def _scales(
    scale_ptr, rows, columns, K: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of the squares that 16 columns each are in."""
    squares = tl.minimum(columns + tl.arange(0, DEPTH // 16) * 16, K - 1) // BLOCK
    return tl.load(scale_ptr + (rows // BLOCK * tl.cdiv(K, BLOCK))[:, None] + squares[None, :])


@triton.jit
def _vector(
    x_ptr, w_ptr, scale_ptr, bias_ptr, add_ptr, out_ptr, N: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, CONCLUDE: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token: rows of the weights pass through registers, multiplied in float32."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1)
    w_rows = inside.to(tl.int64)[:, None, None]
    # The last axis is what a thread reads at once, so that sums along it cross no threads.
    columns = tl.arange(0, DEPTH // 16)[None, :, None] * 16 + tl.arange(0, 16)[None, None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    w_next = _stream(w_ptr, w_rows, columns, K, DEPTH > K)
    up_next = w_next
    if ACT is not None:
        up_next = _stream(w_ptr, w_rows + N, columns, K, DEPTH > K)
    if PDL:
        # Weights do not depend on the kernel before; everything below may.
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((ROWS, DEPTH // 16), tl.float32)
    up_total = total
    for k in tl.static_range(0, K, DEPTH):
        w, up = w_next, up_next
        at = k + columns
        if k + DEPTH < K:
            w_next = _stream(w_ptr, w_rows, at + DEPTH, K, k + 2 * DEPTH > K)
            if ACT is not None:
                up_next = _stream(w_ptr, w_rows + N, at + DEPTH, K, k + 2 * DEPTH > K)
        if k + DEPTH > K:
            x = tl.load(x_ptr + at, mask=at < K, other=0).to(tl.float32)
        else:
            x = tl.load(x_ptr + at).to(tl.float32)
        y = tl.sum(_wide(w, tl.float32) * x, 2)
        if BLOCK:
            y *= _scales(scale_ptr, inside, k, K, BLOCK, DEPTH)
        total += y
        if ACT is not None:
            y = tl.sum(_wide(up, tl.float32) * x, 2)
            if BLOCK:
                y *= _scales(scale_ptr, inside + N, k, K, BLOCK, DEPTH)
            up_total += y
    y = tl.sum(total, 1)
    if BLOCK == 0:
        y *= tl.load(scale_ptr + inside)
    gate = y
    if ACT is not None:
        y = tl.sum(up_total, 1)
        if BLOCK == 0:
            y *= tl.load(scale_ptr + N + inside)
    add_at = out_ptr + rows
    if ADD:
        add_at = add_ptr + rows
    CONCLUDE(
        y, gate, inside, rows < N, bias_ptr, add_at, out_ptr + rows, N, ACT, BIAS, ADD
    )  # fmt: skip


def multiply(
    x: torch.Tensor,
    values: torch.Tensor,
    scales: torch.Tensor,
    config: Config,
    kernels: Kernels,
    *,
    block: int | None = None,
    depth: int = 128,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """add + gate(x @ (values * scales).T + bias); what is None is left out.

    Launches that share a depth must follow one another on one stream: they share counters.

    Args:
        x: [M, K], rows contiguous, bfloat16 or float16, as all but the weights.
        values: [N, K] contiguous, int8, float8_e4m3fn, or the latter's bits as uint8, which
            every device can read; behind a gate the gate's rows, then the other half's.
        scales: float32, [N, 1] or, with a block, [ceil(N / block), ceil(K / block)].
        config: of the form "after", or "vector" for one token.
        kernels: the platform's.
        block: side of the square that shares a scale, a multiple of the depth; behind a gate either
            half's rows are a multiple of it.
        depth: of a tile.
        bias: [N].
        act: a ``Gate.act``; the product's first half goes through it and gates the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.

    Returns:
        [M, N] or [M, N / 2], in x's dtype; add itself if it was given and is not x.
    """
    count = x.shape[0]
    width, k = values.shape
    if act is not None:
        width //= 2
    out = output(x, width, add)
    if not count:
        return out
    rows = config.rows
    options = {"num_warps": config.warps, "launch_pdl": kernels.overlaps}
    around = (
        None if act is None else kernels.activations[act],
        bias is not None,
        add is not None,
        kernels.overlaps,
    )
    if config.form == "vector":
        grid = (-(-width // rows),)
        common = (x, values, scales, bias, add, out, width, k, block or 0, 512 * config.warps, rows)
        kernels.launch(_vector, grid, *common, kernels.finish, *around, **options)
        return out
    tiles = (-(-count // config.tokens), -(-width // rows), config.split)
    partial, arrived = shared_depth(config, tiles, kernels, x.device, 1 if act is None else 2)
    kernels.launch(
        _product,
        tiles,
        x,
        values,
        scales,
        bias,
        add,
        out,
        partial,
        arrived,
        count,
        width,
        k,
        x.stride(0),
        0 if add is None else add.stride(0),
        out.stride(0),
        block or 0,
        depth,
        rows,
        config.tokens,
        config.split,
        kernels.conclude,
        *around,
        num_stages=config.stages,
        **options,
    )
    return out
