"""AWQ (Lin et al., arXiv 2306.00978): weights of active inputs are scaled up before rounding.

A channel that is multiplied by s before it is rounded loses 1/s of its error; whatever comes
before the layer gives a channel divided by s, so that nothing else changes. Scales are chosen by
the squared error of the layer's output, which needs of the inputs x only the mean of x^T x. Where
the paper then clips and rounds to nearest, what follows here is GPTQ's rounding, which loses less.
"""

from __future__ import annotations

import torch

from .grid import fit, in_groups

__all__ = ("find_scales",)

_STEPS = 20


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
