"""8-bit floats on a CPU, which has no arithmetic for them: held as 16-bit floats, exactly."""

from __future__ import annotations

import torch

from ...core.contracts.platform import Platform, Product
from ...core.layers.linear import ComposedProduct
from ..activations import float8_rounded
from ..dense import dense_float8
from ..weights import Float8Weight

__all__ = ("float8_on_cpu",)


def float8_on_cpu(
    weight: Float8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``; scales that an output has of its own stay in float32."""
    if weight.block is not None or dtype is torch.float16:
        return dense_float8(weight, bias, dtype, platform)
    product = platform.product(weight.values.to(dtype), None)
    row_scales, input_scale = weight.scales.view(1, -1), weight.input_scale

    def multiply(x: torch.Tensor) -> torch.Tensor:
        values, scales = float8_rounded(x, None, input_scale)
        y = product(values.to(dtype)).float().mul_(scales).mul_(row_scales)
        return (y if bias is None else y.add_(bias)).to(dtype)

    return ComposedProduct(multiply)
