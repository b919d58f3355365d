"""Bytes on a CPU.

Measured on a Zen 3 (AVX2) with a matrix of 2048 x 2048 and rows of bfloat16: torch's kernel for
bytes takes 0.18 ms for one row, 1.6 for 16 and 25 for 256; the same values held as 16-bit floats
take 0.29, 0.8 and 12. With one row of float32 it takes 3.2 ms, and ``torch._int_mm`` 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ...core.contracts.platform import Platform, Product
from ...core.layers.linear import ComposedProduct
from ..activations import int8_rounded
from ..dense import dense_int8
from ..weights import Int8Weight
from .rows import in_proven_pieces, proven_sizes

__all__ = ("held_as_bytes", "int8_on_cpu")

_OUTPUTS = 64
"""Enough to see how the kernel treats rows."""
_COLUMNS = 64
"""The kernel reads past the end of rows that are no multiple of its vectors."""


def int8_on_cpu(
    weight: Int8Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``; scales stay in float32."""
    if dtype is torch.float16:
        return dense_int8(weight, bias, dtype, platform)
    columns = weight.values.shape[1]
    product: Callable[[torch.Tensor], torch.Tensor]
    if held_as_bytes(columns, dtype):
        product = in_proven_pieces(_Kernel(weight.values), columns, dtype, _steady(columns))
    else:
        product = platform.product(weight.values.to(dtype), None)
    row_scales = weight.scales.view(1, -1)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        values, scales = int8_rounded(x)
        y = product(values.to(dtype)).float().mul_(scales).mul_(row_scales)
        return (y if bias is None else y.add_(bias)).to(dtype)

    return ComposedProduct(multiply)


class _Kernel:
    """x -> x @ values.T, both in bfloat16, the values held as bytes."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values
        self._ones = torch.ones(len(values), dtype=torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self._values, self._ones)
        return y


@cache
def held_as_bytes(columns: int, dtype: torch.dtype) -> bool:
    """Whether torch's kernel multiplies bytes with so many columns; else they become floats."""
    return dtype is torch.bfloat16 and columns % _COLUMNS == 0 and _kernel_works()


def _steady(columns: int) -> list[int]:
    """Numbers of rows that the kernel is steady for; it takes a few outputs at a time."""
    values = torch.arange(_OUTPUTS * columns).view(_OUTPUTS, columns) * 37 % 255 - 127
    return proven_sizes(_Kernel(values.to(torch.int8)), columns, torch.bfloat16)


@cache
def _kernel_works() -> bool:
    """Whether torch's private operator is here, and right: it may change with any release."""
    values = (torch.arange(24 * _COLUMNS) * 37 % 255 - 127).view(24, _COLUMNS)
    x = torch.linspace(-1, 1, 3 * _COLUMNS).view(3, _COLUMNS).cos().to(torch.bfloat16)
    expected = x.double() @ values.double().T
    try:
        with torch.inference_mode():
            found = _Kernel(values.to(torch.int8))(x)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return bool((found.double() - expected).norm() < 0.02 * expected.norm())
