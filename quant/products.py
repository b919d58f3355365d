"""From weights to products: by their kind, and by the device that they are on."""

from __future__ import annotations

from types import ModuleType

import torch

from ..core.contracts.platform import Platform, Product
from .cpu.float8 import float8_on_cpu
from .cpu.grouped import grouped_on_cpu, packed_bits
from .cpu.int8 import held_as_bytes, int8_on_cpu
from .dense import dense_float8, dense_grouped, dense_int8
from .stored.format import Held
from .weights import Float8Weight, GroupedWeight, Int8Weight, Weight

__all__ = ("held_bits", "product_of")


def product_of(
    held: Held, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """x -> x @ weight.T + bias. It repacks, and keeps no reference to what it repacked.

    Formats with 8-bit activations have x rounded as the weight says.

    Args:
        held: weights of any kind, on the device that multiplies.
        bias: [N] in the dtype, or None.
        dtype: of x and of the product.
        platform: of the device.
    """
    if isinstance(held, torch.Tensor):
        return platform.product(held, bias)
    codes = held.codes if isinstance(held, GroupedWeight) else held.values
    kernels = _kernels(dtype, platform) if codes.is_cuda else None
    if kernels is not None and kernels.takes(held):
        made: Product = kernels.product_of(held, bias, dtype, platform)
        return made
    on_cpu = codes.device.type == "cpu"
    if isinstance(held, GroupedWeight):
        return (grouped_on_cpu if on_cpu else dense_grouped)(held, bias, dtype, platform)
    if isinstance(held, Float8Weight):
        return (float8_on_cpu if on_cpu else dense_float8)(held, bias, dtype, platform)
    return (int8_on_cpu if on_cpu else dense_int8)(held, bias, dtype, platform)


def held_bits(weight: Weight, dtype: torch.dtype, platform: Platform) -> float:
    """Bits that ``product_of`` keeps of one weight, scales by group included.

    Args:
        weight: of the kind in question, on the device that multiplies; may be small.
        dtype: of x.
        platform: of the device.
    """
    codes = weight.codes if isinstance(weight, GroupedWeight) else weight.values
    on_cpu = codes.device.type == "cpu"
    kernels = _kernels(dtype, platform) if codes.is_cuda else None
    if kernels is not None and kernels.takes(weight):
        return float(kernels.held_bits(weight))
    if on_cpu and isinstance(weight, GroupedWeight):
        packed = packed_bits(weight, dtype)
        if packed is not None:
            return packed
    if on_cpu and isinstance(weight, Int8Weight) and held_as_bytes(codes.shape[1], dtype):
        return 8
    # A CPU without bfloat16 of its own holds floats in 16 bits where these suffice.
    sixteen = on_cpu and platform.defaults().dtypes[0] != "bfloat16"
    return 16 if sixteen else 8 * dtype.itemsize


def _kernels(dtype: torch.dtype, platform: Platform) -> ModuleType | None:
    """The products by kernels; None where weights are better dequantized once."""
    if platform.kernels() is None or dtype.itemsize != 2:
        return None
    from .kernels import products

    return products
