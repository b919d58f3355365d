"""Products of 8-bit activations with 8-bit weights, int8 or float8, and scales of both."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...core.contracts.platform import Kernels
from .tiles import Config, shared_depth

__all__ = ("multiply",)


@triton.jit
def _load(at, mask, EDGE: tl.constexpr):
    return tl.load(at, mask=mask, other=0.0) if EDGE else tl.load(at)


@triton.jit
def _scales(x_at, w_at, k, last, BLOCK: tl.constexpr):
    """Of the tokens and of the rows' squares, in the columns from k on; of the last behind them."""
    square = tl.minimum(k, last - 1) // BLOCK
    return tl.load(x_at + square), tl.load(w_at + square)


@triton.jit
def _squares(
    x_at, w_at, x_scale_at, w_scale_at, first, last, K: tl.constexpr, BLOCK: tl.constexpr,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, TALL: tl.constexpr,
):  # fmt: skip
    """Sums [TOKENS, ROWS] if TALL, else [ROWS, TOKENS], of squares that have scales of their own.

    A scale of weights is of all rows of a tile where these lie in one square; a thread has few rows
    of the tall side, so that there it needs few of the tokens' scales. Both are loaded a step
    ahead.
    """
    EDGE: tl.constexpr = K % DEPTH != 0
    columns = tl.arange(0, DEPTH)
    total = tl.zeros((TOKENS if TALL else ROWS, ROWS if TALL else TOKENS), tl.float32)
    ahead = _scales(x_scale_at, w_scale_at, first, last, BLOCK)
    for k in range(first, last, DEPTH):
        left = columns < K - k
        w = _load(w_at + k, left[None, :], EDGE)
        x = _load(x_at + k, left[:, None], EDGE)
        x_scale, w_scale = ahead
        ahead = _scales(x_scale_at, w_scale_at, k + DEPTH, last, BLOCK)
        if TALL:
            sums = tl.dot(tl.trans(x), tl.trans(w)).to(tl.float32)
            total += sums * (x_scale * w_scale)[:, None]
        elif ROWS <= BLOCK:
            total += tl.dot(w, x).to(tl.float32) * (x_scale * w_scale)[None, :]
        else:
            total += tl.dot(w, x).to(tl.float32) * (w_scale[:, None] * x_scale[None, :])
    return total


@triton.jit
def _rows(
    x_at, w_at, first, last, K: tl.constexpr, N: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Sums [ROWS, TOKENS] of rows that have a scale each, and behind a gate of the other half's,
    which are N rows on; int8 is summed up exactly."""
    EDGE: tl.constexpr = K % DEPTH != 0
    SUM: tl.constexpr = tl.int32 if w_at.dtype.element_ty == tl.int8 else tl.float32
    columns = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, TOKENS), SUM)
    gate = total
    for k in range(first, last, DEPTH):
        left = columns < K - k
        w = _load(w_at + k, left[None, :], EDGE)
        x = _load(x_at + k, left[:, None], EDGE)
        if GATED:
            gate = tl.dot(w, x, gate, out_dtype=SUM)
            w = _load(w_at + N * K + k, left[None, :], EDGE)
        total = tl.dot(w, x, total, out_dtype=SUM)
    return total.to(tl.float32), gate.to(tl.float32)


@triton.jit(do_not_specialize=["M"])
def _product(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, add_stride: tl.constexpr, out_stride: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    SPLIT: tl.constexpr, TALL: tl.constexpr, CONCLUDE: tl.constexpr, ACT: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """N rows of the weights, or behind a gate, which squares have no, of either half."""
    tile = tl.program_id(1)
    part = tl.program_id(2)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1)
    present = tl.minimum(tokens, M - 1)
    columns = tl.arange(0, DEPTH)
    share = tl.cdiv(tl.cdiv(K, DEPTH), SPLIT) * DEPTH
    first = part * share
    last = tl.minimum(first + share, K)
    w_at = w_ptr + inside.to(tl.int64)[:, None] * K + columns[None, :]
    x_at = x_ptr + present.to(tl.int64)[None, :] * K + columns[:, None]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if BLOCK:
        # Rows of a tile are in one square, or each has its own pointer.
        squares = (tile * ROWS if ROWS <= BLOCK else inside) // BLOCK
        total = _squares(
            x_at, w_at, x_scale_ptr + present * tl.cdiv(K, BLOCK),
            w_scale_ptr + squares * tl.cdiv(K, BLOCK), first, last, K, BLOCK, DEPTH, ROWS, TOKENS,
            TALL,
        )  # fmt: skip
        if TALL:
            total = tl.trans(total)
        gate = total
    else:
        total, gate = _rows(x_at, w_at, first, last, K, N, DEPTH, ROWS, TOKENS, ACT is not None)
        x_scale = tl.load(x_scale_ptr + present)[None, :]
        if ACT is not None:
            gate *= tl.load(w_scale_ptr + inside)[:, None] * x_scale
            w_scale_ptr += N
        total *= tl.load(w_scale_ptr + inside)[:, None] * x_scale
    tile += tl.program_id(0) * tl.num_programs(1)
    CONCLUDE(
        total, gate, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr,
        counter_ptr, M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip


def multiply(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    values: torch.Tensor,
    scales: torch.Tensor,
    config: Config,
    kernels: Kernels,
    dtype: torch.dtype,
    *,
    block: int | None = None,
    depth: int = 128,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """add + gate((x * x_scales) @ (values * scales).T + bias); what is None is left out.

    Launches that share a depth must follow one another on one stream: they share counters.

    Args:
        x: [M, K] contiguous, int8 or float8_e4m3fn.
        x_scales: float32 [M, 1], or with a block [M, ceil(K / block)].
        values: [N, K] contiguous, of x's dtype; behind a gate the gate's rows, then the other
            half's.
        scales: float32, [N, 1] or, with a block, [ceil(N / block), ceil(K / block)].
        config: of tiles; its form does not matter.
        kernels: the platform's.
        dtype: of the result, of the bias and of what is added.
        block: side of the square that shares a scale, a multiple of the depth.
        depth: of a tile.
        bias: [N].
        act: a ``Gate.act``, not with a block; the product's first half goes through it and gates
            the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it.

    Returns:
        [M, N] or [M, N / 2]; add itself if it was given.
    """
    count, k = x.shape
    n = values.shape[0] if act is None else values.shape[0] // 2
    out = torch.empty((count, n), dtype=dtype, device=x.device) if add is None else add
    if not count:
        return out
    grid = (-(-count // config.tokens), -(-n // config.rows), config.split)
    partial, arrived = shared_depth(config, grid, kernels, x.device, 1 if act is None else 2)
    kernels.launch(
        _product,
        grid,
        x,
        values,
        x_scales,
        scales,
        bias,
        add,
        out,
        partial,
        arrived,
        count,
        n,
        k,
        0 if add is None else add.stride(0),
        out.stride(0),
        block or 0,
        depth,
        config.rows,
        config.tokens,
        config.split,
        config.tokens >= 64 and config.rows <= (block or 0),
        kernels.conclude,
        None if act is None else kernels.activations[act],
        bias is not None,
        add is not None,
        kernels.overlaps,
        num_warps=config.warps,
        num_stages=config.stages,
        launch_pdl=kernels.overlaps,
    )
    return out
