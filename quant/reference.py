"""The weights that quantized values stand for, by their definition: what products are held to."""

from __future__ import annotations

import torch

from .weights import GroupedWeight, Int8Weight, Weight

__all__ = ("dequantize",)


def dequantize(weight: Weight, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """[N, K], computed in the dtype."""
    if isinstance(weight, GroupedWeight):
        return _grouped(weight, dtype)
    if isinstance(weight, Int8Weight):
        return weight.values.to(dtype) * weight.scales.to(dtype)
    scales = weight.scales.to(dtype)
    if weight.block is not None:
        rows, columns = weight.values.shape
        scales = scales.repeat_interleave(weight.block, 0)[:rows]
        scales = scales.repeat_interleave(weight.block, 1)[:, :columns]
    return weight.values.to(dtype) * scales


def _grouped(weight: GroupedWeight, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = weight.codes.shape
    codes = weight.codes.view(rows, -1, weight.group_size).to(dtype)
    middle = 2 ** (weight.bits - 1)
    zeros = middle if weight.zeros is None else weight.zeros.to(dtype)[..., None]
    values = ((codes - zeros) * weight.scales.to(dtype)[..., None]).view(rows, columns)
    if weight.order is None:
        return values
    placed = torch.empty_like(values)
    placed[:, weight.order] = values
    return placed
