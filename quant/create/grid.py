"""Uniform grids: the levels (code - zero) * scale that a group of weights is rounded to.

Scales are rounded to float16 before anything is rounded by them, as they are stored so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..weights import GroupedWeight

__all__ = ("Grid", "fit", "fit_best", "grouped", "in_groups", "to_weight")

_LEAST, _MOST = 2.0**-24, 65504.0
_SHRINKS = tuple(1.0 - step / 40 for step in range(20))


@dataclass(frozen=True)
class Grid:
    """Levels of groups.

    Attributes:
        scale: float32 [..., 1], a value of float16.
        zero: float32 [..., 1], whole.
        most: the greatest code.
    """

    scale: torch.Tensor
    zero: torch.Tensor
    most: int

    def codes(self, w: torch.Tensor) -> torch.Tensor:
        """Whole numbers from 0 to most, in w's dtype and shape [..., group size]."""
        return (w / self.scale).round_().add_(self.zero).clamp_(0, self.most)

    def round(self, w: torch.Tensor) -> torch.Tensor:
        """The level next to each weight."""
        return self.codes(w).sub_(self.zero).mul_(self.scale)


def in_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, K] -> [N, K / group_size, group_size]."""
    return weight.view(len(weight), -1, group_size)


def fit(w: torch.Tensor, bits: int, *, symmetric: bool, shrink: float = 1.0) -> Grid:
    """The grid that spans each group's weights and zero.

    Args:
        w: float32 [..., group size].
        bits: of a code.
        symmetric: zero is the middle code.
        shrink: of the span, below 1 to clip.
    """
    most = 2**bits - 1
    if symmetric:
        span = w.abs().amax(-1, keepdim=True).mul_(2 * shrink)
        scale = _storable(span / most)
        return Grid(scale, torch.full_like(scale, 2.0 ** (bits - 1)), most)
    low = w.amin(-1, keepdim=True).clamp_(max=0).mul_(shrink)
    high = w.amax(-1, keepdim=True).clamp_(min=0).mul_(shrink)
    scale = _storable((high - low) / most)
    return Grid(scale, (-low / scale).round_().clamp_(0, most), most)


def fit_best(w: torch.Tensor, bits: int, *, symmetric: bool, importance: torch.Tensor) -> Grid:
    """Of spans from the whole down to half, each group's with the least weighted square error.

    Args:
        w: float32 [..., group size].
        bits: of a code.
        symmetric: zero is the middle code.
        importance: float32, broadcastable to w: of a weight's error, squared.
    """
    best = fit(w, bits, symmetric=symmetric)
    least = _error(best, w, importance)
    for shrink in _SHRINKS[1:]:
        grid = fit(w, bits, symmetric=symmetric, shrink=shrink)
        error = _error(grid, w, importance)
        better = error < least
        least = torch.where(better, error, least)
        best = Grid(
            torch.where(better, grid.scale, best.scale),
            torch.where(better, grid.zero, best.zero),
            best.most,
        )
    return best


def grouped(weight: torch.Tensor, bits: int, group_size: int, *, symmetric: bool) -> GroupedWeight:
    """Round to nearest: each group by its own span, nothing else taken into account.

    Args:
        weight: float32 [N, K].
        bits: of a code.
        group_size: divides K.
        symmetric: zero is the middle code.
    """
    w = in_groups(weight, group_size)
    return to_weight(w, fit(w, bits, symmetric=symmetric), bits, symmetric=symmetric)


def to_weight(w: torch.Tensor, grid: Grid, bits: int, *, symmetric: bool) -> GroupedWeight:
    """Round [N, K / group size, group size] by a grid of the same groups."""
    zeros = None if symmetric else grid.zero.squeeze(-1).to(torch.uint8)
    return GroupedWeight(
        codes=grid.codes(w).flatten(1).to(torch.uint8),
        scales=grid.scale.squeeze(-1).half(),
        zeros=zeros,
        bits=bits,
        group_size=w.shape[-1],
    )


def _storable(scale: torch.Tensor) -> torch.Tensor:
    return scale.half().float().clamp_(_LEAST, _MOST)


def _error(grid: Grid, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    return grid.round(w).sub_(w).square_().mul_(importance).sum(-1, keepdim=True)
