"""Quantized weights drawn at random, and what they stand for in float64."""

from __future__ import annotations

import torch

from quire.quant.weights import GroupedWeight

__all__ = ("dequantized", "grouped")


def grouped(
    n: int,
    k: int,
    group_size: int,
    *,
    bits: int = 4,
    zeros: bool = True,
    order: bool = False,
    scales: torch.dtype = torch.float16,
    device: str = "cpu",
) -> GroupedWeight:
    """A weight whose entries are of the size that a layer's are."""
    groups = k // group_size
    drawn = torch.rand(n, groups, device=device) + 0.5
    return GroupedWeight(
        codes=torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, device=device),
        scales=(drawn * 4 * k**-0.5 / 2**bits).to(scales),
        zeros=torch.randint(0, 2**bits, (n, groups), dtype=torch.uint8, device=device)
        if zeros
        else None,
        bits=bits,
        group_size=group_size,
        order=torch.randperm(k, device=device) if order else None,
    )


def dequantized(weight: GroupedWeight) -> torch.Tensor:
    """[N, K], float64."""
    n, k = weight.codes.shape
    codes = weight.codes.double().view(n, -1, weight.group_size)
    zeros = 2.0 ** (weight.bits - 1) if weight.zeros is None else weight.zeros.double()[..., None]
    dense = ((codes - zeros) * weight.scales.double()[..., None]).view(n, k)
    if weight.order is None:
        return dense
    return torch.empty_like(dense).index_copy_(1, weight.order, dense)
