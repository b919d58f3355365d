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
from .grouped import Config

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


@triton.jit
def _prefetch(at):
    """Bring the lines of these addresses into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["M"])
def _product(
    x_ptr, w_ptr, scale_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, x_stride: tl.constexpr, add_stride: tl.constexpr,
    out_stride: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
    TOKENS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr, CONCLUDE: tl.constexpr,
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
        lines = first + tl.arange(0, AHEAD * DEPTH // 128) * 128
        w_lines = w_ptr + inside.to(tl.int64)[:, None] * K + tl.minimum(lines, K - 1)[None, :]
        _prefetch(w_lines)
        if ACT is not None:
            _prefetch(w_lines + N * K)
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


@triton.jit(do_not_specialize=["M"])
def _apart(
    x_ptr, w_ptr, scale_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M,
    N: tl.constexpr, K: tl.constexpr, x_stride: tl.constexpr, add_stride: tl.constexpr,
    out_stride: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
    TOKENS: tl.constexpr, SPLIT: tl.constexpr, DEEP: tl.constexpr, CONCLUDE: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As ``_product``, with DEEP parts of the depth side by side; see ``apart``."""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    STEPS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    SHARE: tl.constexpr = (STEPS + SPLIT * DEEP - 1) // (SPLIT * DEEP)
    EDGE: tl.constexpr = SHARE * SPLIT * DEEP * DEPTH != K
    tile = tl.program_id(1)
    part = tl.program_id(2)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1)
    begin = (part * DEEP + tl.arange(0, DEEP)) * (SHARE * DEPTH)
    columns = begin[:, None] + tl.arange(0, DEPTH)[None, :]
    w_at = w_ptr + inside.to(tl.int64)[None, :, None] * K + columns[:, None, :]
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, None, :] * x_stride
    x_at += columns[:, :, None]
    some = (tokens < M)[None, None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        first = w_ptr + inside.to(tl.int64)[None, :] * K + tl.minimum(begin, K - 1)[:, None]
        _prefetch(first)
        if ACT is not None:
            _prefetch(first + N * K)
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((DEEP, ROWS, TOKENS), tl.float32)
    gate = total
    for index in range(SHARE):
        k = index * DEPTH
        left = columns < K - k
        w = _load(w_at + k, left[:, None, :], EDGE)
        if EDGE:
            x = tl.load(x_at + k, mask=some & left[:, :, None], other=0)
        else:
            x = tl.load(x_at + k, mask=some, other=0)
        if ACT is not None:
            up = _load(w_at + N * K + k, left[:, None, :], EDGE)
        if BLOCK:
            at = tl.minimum(begin + k, K - 1) // BLOCK
            scale_at = scale_ptr + inside[None, :] // BLOCK * tl.cdiv(K, BLOCK) + at[:, None]
            if ACT is not None:
                gate += tl.dot(_wide(w, DTYPE), x) * tl.load(scale_at)[:, :, None]
                w = up
                scale_at += N // BLOCK * tl.cdiv(K, BLOCK)
            total += tl.dot(_wide(w, DTYPE), x) * tl.load(scale_at)[:, :, None]
        else:
            if ACT is not None:
                gate = tl.dot(_wide(w, DTYPE), x, gate)
                w = up
            total = tl.dot(_wide(w, DTYPE), x, total)
    sums = tl.sum(total, 0)
    gates = sums
    if ACT is not None:
        gates = tl.sum(gate, 0)
    if BLOCK == 0:
        if ACT is not None:
            gates *= tl.load(scale_ptr + inside)[:, None]
            scale_ptr += N
        sums *= tl.load(scale_ptr + inside)[:, None]
    tile += tl.program_id(0) * tl.num_programs(1)
    CONCLUDE(
        sums, gates, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
        M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
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
        config: of the form "after" or "apart".
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
    out = add
    if add is None or add.data_ptr() == x.data_ptr():
        out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    if not count or out is None:
        return x if out is None else out
    rows, split = config.rows, config.split
    grid = (-(-count // config.tokens), -(-width // rows), split)
    partial = arrived = None
    if split > 1:
        tiles = grid[0] * grid[1]
        size = tiles * split * rows * config.tokens * (1 if act is None else 2)
        partial = torch.empty(size, dtype=torch.float32, device=x.device)
        arrived = kernels.counters(x.device, tiles)
    deep = config.form == "apart"
    kernels.launch(
        _apart if deep else _product,
        grid,
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
        split,
        config.deep if deep else 2,
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
