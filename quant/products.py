"""From weights to products: by the device that they are on."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from ..core.contracts.platform import Platform, Product
from .cpu.float8 import float8_on_cpu
from .cpu.grouped import grouped_on_cpu
from .cpu.int8 import int8_on_cpu
from .dense import dense_float8, dense_grouped, dense_int8
from .stored.format import Held
from .weights import Float8Weight, GroupedWeight, Int8Weight

__all__ = ("float8_product", "grouped_product", "int8_product", "product_of")


def product_of(
    held: Held, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """The product with weights of any kind; see ``grouped_product``."""
    if isinstance(held, GroupedWeight):
        return grouped_product(held, bias, dtype, platform)
    if isinstance(held, Float8Weight):
        return float8_product(held, bias, dtype, platform)
    if isinstance(held, Int8Weight):
        return int8_product(held, bias, dtype, platform)
    return platform.product(held, bias)


def grouped_product(
    weight: GroupedWeight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """x -> x @ weight.T + bias. It repacks, and keeps no reference to what it repacked.

    Args:
        weight: on the device that multiplies.
        bias: [N] in the dtype, or None.
        dtype: of x and of the product.
        platform: of the device.
    """
    if weight.codes.is_cuda and (kernel := _kernel("grouped", "GroupedProduct")):
        product: Product = kernel(weight, bias, dtype)
        return product
    make = grouped_on_cpu if weight.codes.device.type == "cpu" else dense_grouped
    return make(weight, bias, dtype, platform)


def float8_product(
    weight: Float8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """As ``grouped_product``, with x rounded to 8-bit floats as the weight says."""
    if weight.values.is_cuda and (kernel := _kernel("float8", "Float8Product")):
        product: Product = kernel(weight, bias, dtype)
        return product
    make = float8_on_cpu if weight.values.device.type == "cpu" else dense_float8
    return make(weight, bias, dtype, platform)


def int8_product(
    weight: Int8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """As ``grouped_product``, with each row of x rounded to bytes."""
    if weight.values.is_cuda and (kernel := _kernel("int8", "Int8Product")):
        product: Product = kernel(weight, bias, dtype)
        return product
    make = int8_on_cpu if weight.values.device.type == "cpu" else dense_int8
    return make(weight, bias, dtype, platform)


def _kernel(module: str, name: str) -> Any:
    """A class of ``quant.kernels``, which needs Triton; None where there is no such module."""
    try:
        return getattr(import_module(f".kernels.{module}", __package__), name)
    except ModuleNotFoundError:
        return None
