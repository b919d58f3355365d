"""Products with weights dequantized once, in the activations' dtype: for any device."""

from __future__ import annotations

import torch

from ..core.contracts.platform import Platform, Product
from ..core.layers.linear import ComposedProduct
from .activations import float8_rounded, int8_rounded
from .reference import dequantize
from .weights import Float8Weight, GroupedWeight, Int8Weight, Weight

__all__ = ("dense_float8", "dense_grouped", "dense_int8")


def dense_grouped(
    weight: GroupedWeight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``."""
    return platform.product(_dense(weight, dtype), bias)


def dense_float8(
    weight: Float8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``."""
    product = platform.product(_dense(weight, dtype), bias)
    block, scale = weight.block, weight.input_scale

    def multiply(x: torch.Tensor) -> torch.Tensor:
        values, scales = float8_rounded(x, block, scale)
        if block is not None:
            scales = scales.repeat_interleave(block, 1)[:, : x.shape[1]]
        return product((values * scales).to(dtype))

    return ComposedProduct(multiply)


def dense_int8(
    weight: Int8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``."""
    product = platform.product(_dense(weight, dtype), bias)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        values, scales = int8_rounded(x)
        return product((values * scales).to(dtype))

    return ComposedProduct(multiply)


def _dense(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    return dequantize(weight, torch.float32).to(dtype)
