"""AWQ (Lin et al., arXiv 2306.00978): weights of active inputs are scaled up before rounding.

A channel that is multiplied by s before it is rounded loses 1/s of its error; whatever comes before
the layer gives a channel divided by s, so that nothing else changes. Scales and clipping are chosen
by the squared error of the layer's output, which needs of the inputs x only the mean of x^T x.
"""

from __future__ import annotations

import torch

from ..weights import GroupedWeight
from .grid import Grid, fit, in_groups, to_weight

__all__ = ("find_scales", "round_clipped")

_STEPS = 20
_CLIP_STEPS = 10
_MOST_CLIPPED = 0.5
_ROWS = 2048


def find_scales(
    weight: torch.Tensor,
    gram: torch.Tensor,
    activity: torch.Tensor,
    *,
    bits: int,
    group_size: int,
    shared: int = 1,
    head_dim: int = 1,
) -> torch.Tensor:
    """Each input channel's factor.

    Candidates are activity^r, by itself and over weight^(1 - r), for r from 0 to 1; s = 1 is one.

    Args:
        weight: float32 [N, K].
        gram: float32 [K, K], mean of x^T x.
        activity: float32 [K], mean of |x|.
        bits: of a code.
        group_size: divides K.
        shared: consecutive heads of the input whose channels come from one channel each, and so
            have one factor.
        head_dim: channels of a head.

    Returns:
        float32 [K], positive.
    """
    peaks = in_groups(weight.abs(), group_size)
    relative = (peaks / peaks.amax(-1, keepdim=True).clamp_(min=1e-12)).flatten(1).mean(0)
    activity, relative = (_share(x, shared, head_dim) for x in (activity, relative))
    best = torch.ones_like(activity)
    least = _loss(weight, best, gram, bits, group_size)
    for step in range(1, _STEPS + 1):
        ratio = step / _STEPS
        alone = activity.pow(ratio)
        for candidate in (alone, alone / (relative.pow(1 - ratio) + 1e-4)):
            scales = candidate.clamp(min=1e-4)
            scales = scales / (scales.max() * scales.min()).sqrt()
            loss = _loss(weight, scales, gram, bits, group_size)
            if loss < least:
                best, least = scales, loss
    return best


def round_clipped(
    weight: torch.Tensor, gram: torch.Tensor, *, bits: int, group_size: int, clip: bool
) -> GroupedWeight:
    """Round to nearest, each group of each row by the span that changes its output least.

    Args:
        weight: float32 [N, K].
        gram: float32 [K, K], mean of x^T x.
        bits: of a code.
        group_size: divides K.
        clip: choose spans; False takes the whole ones.
    """
    w = in_groups(weight, group_size)
    grid = fit(w, bits, symmetric=False)
    if clip:
        groups = range(w.shape[1])
        blocks = torch.stack([gram[_slice(g, group_size), _slice(g, group_size)] for g in groups])
        parts = [_clipped(part, blocks, bits) for part in torch.split(w, _ROWS)]
        grid = Grid(
            torch.cat([part.scale for part in parts]),
            torch.cat([part.zero for part in parts]),
            grid.most,
        )
    return to_weight(w, grid, bits, symmetric=False)


def _clipped(w: torch.Tensor, blocks: torch.Tensor, bits: int) -> Grid:
    """The best grid of [n, groups, group size], with the Gram matrix of each group's inputs."""
    best = fit(w, bits, symmetric=False)
    least = _block_loss(best, w, blocks)
    for step in range(1, _CLIP_STEPS + 1):
        shrink = 1 - step / _CLIP_STEPS * _MOST_CLIPPED
        grid = fit(w, bits, symmetric=False, shrink=shrink)
        loss = _block_loss(grid, w, blocks)
        better = loss < least
        least = torch.where(better, loss, least)
        best = Grid(
            torch.where(better, grid.scale, best.scale),
            torch.where(better, grid.zero, best.zero),
            best.most,
        )
    return best


def _block_loss(grid: Grid, w: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    error = grid.round(w).sub_(w)
    return torch.einsum("ngi,gij->ngj", error, blocks).mul_(error).sum(-1, keepdim=True)


def _loss(
    weight: torch.Tensor, scales: torch.Tensor, gram: torch.Tensor, bits: int, group_size: int
) -> float:
    """Mean square of what rounding the scaled weight changes in the output."""
    w = in_groups(weight * scales, group_size)
    error = fit(w, bits, symmetric=False).round(w).flatten(1).div_(scales).sub_(weight)
    return float((error @ gram).mul_(error).sum())


def _share(x: torch.Tensor, shared: int, head_dim: int) -> torch.Tensor:
    """The mean over heads that share channels, at each of them."""
    heads = x.view(-1, shared, head_dim)
    return heads.mean(1, keepdim=True).expand_as(heads).reshape(-1)


def _slice(group: int, size: int) -> slice:
    return slice(group * size, (group + 1) * size)
