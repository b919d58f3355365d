"""Layers that see the same input, as one layer where they are stored alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..weights import Float8Weight, GroupedWeight, Int8Weight
from .format import Held

__all__ = ("neighbours",)


def neighbours(held: Sequence[Held]) -> Iterator[tuple[Held, int]]:
    """Runs of neighbours that can be one, each with its outputs.

    Nothing is lost: layers whose scales, groups or orders do not fit together stay apart.
    """
    run: list[Held] = []
    for weight in held:
        if run and not _alike(run[-1], weight):
            yield _joined(run)
            run = []
        run.append(weight)
    yield _joined(run)


def _alike(a: Held, b: Held) -> bool:
    if isinstance(a, GroupedWeight) and isinstance(b, GroupedWeight):
        return (
            (a.bits, a.group_size, a.scales.dtype) == (b.bits, b.group_size, b.scales.dtype)
        ) and _same(a.order, b.order)
    if isinstance(a, Float8Weight) and isinstance(b, Float8Weight):
        # Blocks go on over the seam only where it is the edge of one.
        whole = a.block is None or len(a.values) % a.block == 0
        return a.block == b.block and whole and _same(a.input_scale, b.input_scale)
    return type(a) is type(b)


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def _joined(run: list[Held]) -> tuple[Held, int]:
    first = run[0]
    if isinstance(first, torch.Tensor):
        whole = _cat([weight for weight in run if isinstance(weight, torch.Tensor)])
        return whole, len(whole)
    if isinstance(first, GroupedWeight):
        grouped = _grouped([weight for weight in run if isinstance(weight, GroupedWeight)])
        return grouped, len(grouped.codes)
    parts = [weight for weight in run if isinstance(weight, Float8Weight | Int8Weight)]
    values, scales = _cat([part.values for part in parts]), _cat([part.scales for part in parts])
    if isinstance(first, Int8Weight):
        return Int8Weight(values, scales), len(values)
    return Float8Weight(values, scales, first.block, first.input_scale), len(values)


def _grouped(parts: list[GroupedWeight]) -> GroupedWeight:
    first = parts[0]
    zeros = None
    if any(part.zeros is not None for part in parts):
        middle = 2 ** (first.bits - 1)
        zeros = _cat(
            [
                part.codes.new_full(part.scales.shape, middle) if part.zeros is None else part.zeros
                for part in parts
            ]
        )
    return GroupedWeight(
        codes=_cat([part.codes for part in parts]),
        scales=_cat([part.scales for part in parts]),
        zeros=zeros,
        bits=first.bits,
        group_size=first.group_size,
        order=first.order,
    )


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
