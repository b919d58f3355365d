"""x @ weight.T for few rows of x, where reading the weights is all that takes time.

One row is a matrix-vector product: each program streams a few rows of the weights through
registers and multiplies them in float32. More rows go through the matrix units with the operands
swapped: rows of the weights are the tall side that the instructions want, tokens the short one.
Where a matrix has too few rows to occupy the chip, several programs share its depth; the last one
to arrive adds their partial sums in a fixed order, so the result does not depend on who that is.

A token's result in the dot form depends on depth and split of the Config and not on the other
tokens or their number: one Config for all of them is batch-invariant. The vector form adds in
another order than the dot form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .activation import ACTIVATIONS
from .conclusion import conclude, counters, finish, output
from .launch import launch

__all__ = ("Config", "dot_product", "vector_product")


class Config(NamedTuple):
    """How a product is cut.

    Attributes:
        form: "vector" (one token), "dot", or "library" for torch's own.
        rows: of the weights, a tile; behind a gate that many of either half.
        depth: of a tile.
        warps: a program.
        stages: tiles in flight; of the dot form. With one, every program has one tile of the depth,
            whose weights are requested before the kernel before has ended.
        split: programs that share the depth; of the dot form.
    """

    form: str
    rows: int = 0
    depth: int = 0
    warps: int = 4
    stages: int = 1
    split: int = 1


@triton.jit
def _stream(w_ptr, rows, columns, K: tl.constexpr, EDGE: tl.constexpr):
    """A tile of the weights, read once and not kept."""
    at = w_ptr + rows * K + columns
    if EDGE:
        w = tl.load(at, mask=columns < K, other=0, eviction_policy="evict_first")
    else:
        w = tl.load(at, eviction_policy="evict_first")
    return w


@triton.jit
def _vector(
    x_ptr, w_ptr, bias_ptr, add_ptr, out_ptr, N: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1).to(tl.int64)
    w_rows = inside[:, None, None]
    # The last axis is what a thread reads at once, so that sums along it cross no threads.
    columns = tl.arange(0, DEPTH // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    w_next = _stream(w_ptr, w_rows, columns, K, DEPTH > K)
    up_next = w_next
    if ACT is not None:
        up_next = _stream(w_ptr, w_rows + N, columns, K, DEPTH > K)
    if PDL:
        # Weights do not depend on the kernel before; everything below may.
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((ROWS, DEPTH // 8), tl.float32)
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
        total += tl.sum(w.to(tl.float32) * x, 2)
        if ACT is not None:
            up_total += tl.sum(up.to(tl.float32) * x, 2)
    y = tl.sum(total, 1)
    gate = y
    if ACT is not None:
        y = tl.sum(up_total, 1)
    out_at = out_ptr + rows
    add_at = out_at
    if ADD:
        add_at = add_ptr + rows
    finish(y, gate, inside, rows < N, bias_ptr, add_at, out_at, N, ACT, BIAS, ADD)


@triton.jit(do_not_specialize=["M"])
def _dot(
    x_ptr, w_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M, N: tl.constexpr,
    K: tl.constexpr, x_stride: tl.constexpr, add_stride: tl.constexpr, out_stride: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, DEPTH: tl.constexpr,
    SPLIT: tl.constexpr, WHOLE: tl.constexpr, EDGE: tl.constexpr, ACT: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    part = tl.program_id(1)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = tl.minimum(rows, N - 1).to(tl.int64)
    tokens = tl.program_id(2) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.arange(0, DEPTH)
    share = tl.cdiv(tl.cdiv(K, DEPTH), SPLIT) * DEPTH
    first = part * share
    last = tl.minimum(first + share, K)
    w_at = w_ptr + inside[:, None] * K + columns[None, :]
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, :] * x_stride + columns[:, None]
    up_offset = N * K
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    gate = total
    if WHOLE:
        if PDL:
            tl.extra.cuda.gdc_launch_dependents()
        w_rows, w_columns = inside[:, None], (first + columns)[None, :]
        w = _stream(w_ptr, w_rows, w_columns, K, EDGE)
        up = w
        if ACT is not None:
            up = _stream(w_ptr, w_rows + N, w_columns, K, EDGE)
        if PDL:
            # Weights do not depend on the kernel before; everything below may.
            tl.extra.cuda.gdc_wait()
        if EDGE:
            x = tl.load(x_at + first, mask=(first + columns < K)[:, None], other=0)
        else:
            x = tl.load(x_at + first)
        if ACT is not None:
            gate = tl.dot(w, x, gate)
        total = tl.dot(up, x, total)
    else:
        if PDL:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()
        for k in range(first, last, DEPTH):
            if EDGE:
                x = tl.load(x_at + k, mask=(k + columns < K)[:, None], other=0)
                w = tl.load(
                    w_at + k,
                    mask=(k + columns < K)[None, :],
                    other=0,
                    eviction_policy="evict_first",
                )
            else:
                x = tl.load(x_at + k)
                w = tl.load(w_at + k, eviction_policy="evict_first")
            if ACT is not None:
                gate = tl.dot(w, x, gate)
                if EDGE:
                    w = tl.load(
                        w_at + up_offset + k, mask=(k + columns < K)[None, :], other=0,
                        eviction_policy="evict_first",
                    )  # fmt: skip
                else:
                    w = tl.load(w_at + up_offset + k, eviction_policy="evict_first")
            total = tl.dot(w, x, total)
    tile += tl.program_id(2) * tl.num_programs(0)
    conclude(
        total, gate, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
        M, N, add_stride, out_stride, SPLIT, ACT, BIAS, ADD,
    )  # fmt: skip


def vector_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: Config,
    *,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """add + gate(x @ weight.T + bias) for one token; what is None is left out.

    Args:
        x: [1, K], bfloat16 or float16, as all else; K is a multiple of 8.
        weight: [N, K] contiguous; behind a gate the gate's rows, then the other half's.
        config: of the form "vector".
        bias: [N].
        act: a key of ACTIVATIONS; the product's first half goes through it and gates the second.
        add: [1, N], or [1, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on). Weights, which
            no kernel writes, are then read before that one has ended.

    Returns:
        [1, N] or [1, N / 2], in x's dtype; add itself if it was given and is not x.
    """
    width, depth = weight.shape
    if act is not None:
        width //= 2
    out = output(x, width, add)
    rows = config.rows
    launch(
        _vector,
        (-(-width // rows),),
        x,
        weight,
        bias,
        add,
        out,
        width,
        depth,
        rows,
        config.depth,
        None if act is None else ACTIVATIONS[act],
        bias is not None,
        add is not None,
        pdl,
        num_warps=config.warps,
        launch_pdl=pdl,
    )
    return out


def dot_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: Config,
    *,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """add + gate(x @ weight.T + bias) for any number of tokens; what is None is left out.

    Launches that share a depth must follow one another on one stream: they share counters.

    Args:
        x: [M, K], rows contiguous, bfloat16 or float16, as all else.
        weight: [N, K] contiguous; behind a gate the gate's rows, then the other half's.
        config: of the form "dot".
        bias: [N].
        act: a key of ACTIVATIONS; the product's first half goes through it and gates the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.
        pdl: as in ``vector_product``.

    Returns:
        [M, N] or [M, N / 2], in x's dtype; add itself if it was given and is not x.

    Raises:
        ValueError: for a shared depth of more tiles than there are counters, or one stage where
            programs are not as many as tiles.
    """
    count = x.shape[0]
    width, depth = weight.shape
    if act is not None:
        width //= 2
    out = output(x, width, add)
    if not count:
        return out
    tokens = 16 if count <= 16 else 32 if count <= 32 else 64
    rows, split = config.rows, config.split
    if config.stages == 1 and split != -(-depth // config.depth):
        raise ValueError(f"a depth of {depth} is not {split} tiles of {config.depth}")
    grid = (-(-width // rows), split, -(-count // tokens))
    partial = arrived = None
    if split > 1:
        tiles = grid[0] * grid[2]
        size = tiles * split * rows * tokens * (1 if act is None else 2)
        partial = torch.empty(size, dtype=torch.float32, device=x.device)
        arrived = counters(x.device, tiles)
    launch(
        _dot,
        grid,
        x,
        weight,
        bias,
        add,
        out,
        partial,
        arrived,
        count,
        width,
        depth,
        x.stride(0),
        0 if add is None else add.stride(0),
        out.stride(0),
        rows,
        tokens,
        config.depth,
        split,
        config.stages == 1,
        depth % config.depth != 0,
        None if act is None else ACTIVATIONS[act],
        bias is not None,
        add is not None,
        pdl,
        num_warps=config.warps,
        num_stages=config.stages,
        launch_pdl=pdl,
    )
    return out
