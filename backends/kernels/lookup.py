"""Runs of tokens that a row has had before, found on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("TritonLookup",)

_BLOCK = 2048
"""Positions of a row that a program looks at together."""


@triton.jit(do_not_specialize=["stride", "most"])
def _lookup(
    out_ptr,
    tokens_ptr,
    slots_ptr,
    lengths_ptr,
    stride,
    least,
    longest,
    each,
    most,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows)."""
    row = tl.program_id(0)
    tokens_ptr += tl.load(slots_ptr + row) * stride
    length = tl.load(lengths_ptr + row).to(tl.int32)
    # The longest run wins, and of equally long ones the last.
    best = tl.full((BLOCK,), -1, tl.int64)
    for begin in range(1, length, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        same = at < length
        run = tl.zeros((BLOCK,), tl.int32)
        back = 1
        some = 1
        while (some > 0) & (back <= longest):
            same &= at >= back
            last = tl.load(tokens_ptr + tl.maximum(length - back, 0))
            same &= tl.load(tokens_ptr + at - back, mask=same, other=-1) == last
            run += same.to(tl.int32)
            some = tl.max(same.to(tl.int32), axis=0)
            back += 1
        best = tl.maximum(best, tl.where(run >= least, (run.to(tl.int64) << 32) + at, -1))
    found = tl.max(best, axis=0)
    index = tl.arange(0, WIDTH)
    follow = (found & 0xFFFFFFFF).to(tl.int32) + index
    inside = (found >= 0) & (follow < length)
    if each > 0:
        inside &= index < each * (found >> 32)
    drafts = tl.load(tokens_ptr + follow, mask=inside & (index < most), other=-1)
    tl.store(out_ptr + row * most + index, drafts.to(tl.int64), mask=index < most)


class TritonLookup:
    """``quire.backends.cpu.lookup.Lookup``, with the same arguments and results, on a GPU."""

    def __init__(self, least: int, longest: int, each: int) -> None:
        self._settings = least, longest, each

    def __call__(
        self, tokens: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, most: int
    ) -> torch.Tensor:
        """What followed the run of each row: int64 [N, most]; see there."""
        out = slots.new_empty(len(slots), most)
        launch(
            _lookup,
            (len(slots),),
            out,
            tokens,
            slots,
            lengths,
            tokens.stride(0),
            *self._settings,
            most,
            WIDTH=triton.next_power_of_2(most),
            BLOCK=_BLOCK,
            num_warps=8,
        )
        return out
