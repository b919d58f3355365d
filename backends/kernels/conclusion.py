"""What follows a product's sums: the other parts of a shared depth, bias, gate, addition, store."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .activation import activate

__all__ = ("conclude", "counters", "finish", "output")

_COUNTERS = 4096
"""Tiles of an output whose depth is shared."""


@triton.jit
def finish(
    total, gate, rows, mask, bias_ptr, add_at, out_at, N,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Bias, gate and addition behind a product; total is of the up half if there is a gate."""
    if BIAS:
        if ACT is not None:
            gate += tl.load(bias_ptr + rows).to(tl.float32)
            bias_ptr += N
        total += tl.load(bias_ptr + rows).to(tl.float32)
    if ACT is not None:
        total *= activate(gate, ACT)
    if ADD:
        total += tl.load(add_at, mask=mask, other=0).to(tl.float32)
    tl.store(out_at, total.to(out_at.dtype.element_ty), mask=mask)


@triton.jit
def conclude(
    total, gate, rows, tokens, tile, part, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr,
    M, N: tl.constexpr, add_stride: tl.constexpr, out_stride: tl.constexpr,
    SPLIT: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """A tile of sums [rows, tokens] on its way to the output [tokens, rows].

    SPLIT programs have a part each of the tile's depth; the last to arrive adds their sums in a
    fixed order, so the result does not depend on who that is.
    """
    ROWS: tl.constexpr = total.shape[0]
    TOKENS: tl.constexpr = total.shape[1]
    out_at = out_ptr + tokens.to(tl.int64)[None, :] * out_stride + rows[:, None]
    add_at = out_at
    if ADD:
        add_at = add_ptr + tokens.to(tl.int64)[None, :] * add_stride + rows[:, None]
    mask = (tokens < M)[None, :] & (rows < N)[:, None]
    inside = tl.minimum(rows, N - 1).to(tl.int64)[:, None]
    if SPLIT == 1:
        finish(total, gate, inside, mask, bias_ptr, add_at, out_at, N, ACT, BIAS, ADD)
    else:
        HALVES: tl.constexpr = 1 if ACT is None else 2
        SIZE: tl.constexpr = ROWS * TOKENS
        partial_ptr += tile.to(tl.int64) * (SPLIT * HALVES * SIZE)
        cells = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
        mine = partial_ptr + part * (HALVES * SIZE) + cells
        tl.store(mine, total)
        if ACT is not None:
            tl.store(mine + SIZE, gate)
        tl.debug_barrier()
        if tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1:
            tl.store(counter_ptr + tile, 0)
            total = tl.zeros((ROWS, TOKENS), tl.float32)
            gate = total
            for other in tl.static_range(SPLIT):
                theirs = partial_ptr + other * (HALVES * SIZE) + cells
                total += tl.load(theirs, cache_modifier=".cg")
                if ACT is not None:
                    gate += tl.load(theirs + SIZE, cache_modifier=".cg")
            finish(total, gate, inside, mask, bias_ptr, add_at, out_at, N, ACT, BIAS, ADD)


def output(x: torch.Tensor, width: int, add: torch.Tensor | None) -> torch.Tensor:
    """Where a result goes: other programs may still read x."""
    if add is None or add.data_ptr() == x.data_ptr():
        return torch.empty((x.shape[0], width), dtype=x.dtype, device=x.device)
    return add


_counters_of: dict[torch.device, torch.Tensor] = {}


def counters(device: torch.device, tiles: int) -> torch.Tensor:
    """int32 of at least so many, zero between launches.

    Raises:
        ValueError: for more than there are.
    """
    if tiles > _COUNTERS:
        raise ValueError(f"{tiles} tiles cannot share their depth, at most {_COUNTERS} can")
    held = _counters_of.get(device)
    if held is None:
        held = _counters_of[device] = torch.zeros(_COUNTERS, dtype=torch.int32, device=device)
    return held
