"""Codes of up to four bits on a CPU.

Measured on a Zen 3 (AVX2) with a matrix of 2048 x 2048: torch's 4-bit kernel takes 0.32 ms for one
row of bfloat16, 1.7 for 16 and 27 for 256; weights held as float16 take 0.20 to 0.29, 0.8 and 12,
but four times the memory. On a Zen 5 with bfloat16 of its own the 4-bit kernel is the faster one
for a few rows. With a row of float32 it takes 4.9 ms, so those are multiplied with 16-bit floats.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from ...core.contracts.platform import Platform, Product
from ...core.layers.linear import ComposedProduct
from ..reference import dequantize
from ..weights import GroupedWeight
from .rows import in_proven_pieces, proven_sizes

__all__ = ("grouped_on_cpu", "packed_bits")

_GROUPS = (256, 128, 64, 32)
"""Inputs that share a scale in torch's kernel."""
_ROWS = 16
"""Outputs come in multiples of it."""
_OUTPUTS = 64
"""That the kernel takes at a time."""
_PIECE = 512
"""Outputs converted at a time, a multiple of the kernel's, to bound the memory that it takes."""
_MIDDLE = 8
"""What the kernel takes off every code."""
_CLOSE = 2.0**-11
"""Float16's rounding, which the authors' own tools dequantize in."""


def grouped_on_cpu(
    weight: GroupedWeight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> Product:
    """See ``products.product_of``."""
    size = _packed_group(weight, dtype)
    if size is not None:
        return ComposedProduct(_packed(weight, bias, size))
    return platform.product(_dense(weight, dtype), bias)


def packed_bits(weight: GroupedWeight, dtype: torch.dtype) -> float | None:
    """Bits of a code with its share of scale and offset; None where the weight becomes floats."""
    size = _packed_group(weight, dtype)
    return None if size is None else 4 + 32 / size


def _packed_group(weight: GroupedWeight, dtype: torch.dtype) -> int | None:
    """The kernel's group where it multiplies such a weight."""
    if dtype is not torch.bfloat16 or weight.bits > 4 or not _kernel_works():
        return None
    return _kernel_group(weight.group_size)


def _dense(weight: GroupedWeight, dtype: torch.dtype) -> torch.Tensor:
    """[N, K], through float16 where that is close: a CPU's product holds it in half the memory."""
    whole = torch.empty(weight.codes.shape, dtype=dtype)
    for first in range(0, len(whole), _PIECE):
        rows = slice(first, first + _PIECE)
        wide = dequantize(_some(weight, rows), torch.float32)
        rounded = wide.half().float()
        close = bool((rounded - wide).norm() <= _CLOSE * wide.norm())
        whole[rows] = rounded if close else wide
    return whole


def _some(weight: GroupedWeight, rows: slice) -> GroupedWeight:
    """Some outputs of a weight."""
    zeros = None if weight.zeros is None else weight.zeros[rows]
    return replace(weight, codes=weight.codes[rows], scales=weight.scales[rows], zeros=zeros)


def _kernel_group(group_size: int) -> int | None:
    """The greatest group of the kernel that divides the weight's."""
    return next((size for size in _GROUPS if group_size % size == 0), None)


class _packed:  # noqa: N801
    """By torch's 4-bit kernel: (code - 8) * scale + offset, scale and offset in bfloat16.

    Args:
        weight: of at most four bits.
        bias: [N] in bfloat16, or None.
        size: the kernel's group.
    """

    def __init__(self, weight: GroupedWeight, bias: torch.Tensor | None, size: int) -> None:
        self._outputs, columns = weight.codes.shape
        missing = -self._outputs % _ROWS
        self._held = _repacked(torch.nn.functional.pad(weight.codes, (0, 0, 0, missing)))
        self._scales = _scales_and_offsets(weight, missing, weight.group_size // size)
        self._size, self._order, self._bias = size, weight.order, bias
        steady = _steady(columns, size) if self._outputs > _OUTPUTS else None
        self._run = in_proven_pieces(self._multiply, columns, torch.bfloat16, steady)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self._held, self._size, self._scales
        )
        return y

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        ordered = x.contiguous() if self._order is None else x.index_select(1, self._order)
        y = self._run(ordered)[:, : self._outputs].contiguous()
        return y if self._bias is None else y.add_(self._bias)


def _repacked(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [N, K] in the kernel's order, [N, K / 2]."""
    rows, columns = codes.shape
    held = torch.empty(rows, columns // 2, dtype=torch.uint8)
    for first in range(0, rows, _PIECE):
        piece = codes[first : first + _PIECE].int()
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(piece, 2)
        held[first : first + _PIECE] = packed
    return held


@cache
def _steady(columns: int, size: int) -> list[int]:
    """Numbers of rows that the kernel is steady for; it takes so many outputs at a time."""
    codes = torch.arange(_OUTPUTS * columns).view(_OUTPUTS, columns) * 7 % 16
    scales = torch.linspace(0.5, 2, _OUTPUTS * (columns // size)).view(_OUTPUTS, -1)
    alike = _packed(GroupedWeight(codes.to(torch.uint8), scales, None, 4, size), None, size)
    return proven_sizes(alike._multiply, columns, torch.bfloat16)


def _scales_and_offsets(weight: GroupedWeight, missing: int, repeats: int) -> torch.Tensor:
    """bfloat16 [groups, outputs, 2]; an offset is made with the scale as it is after rounding."""
    scales = weight.scales.to(torch.bfloat16)
    zeros = 2 ** (weight.bits - 1) if weight.zeros is None else weight.zeros.float()
    offsets = scales.float() * (_MIDDLE - zeros)
    both = torch.stack((scales, offsets.to(torch.bfloat16)), -1)
    both = torch.nn.functional.pad(both, (0, 0, 0, 0, 0, missing))
    return both.transpose(0, 1).repeat_interleave(repeats, 0).contiguous()


@cache
def _kernel_works() -> bool:
    """Whether torch's private operators are here, and right: they may change with any release."""
    codes = torch.arange(16 * 64, dtype=torch.int32).view(16, 64) * 7 % 16
    weight = GroupedWeight(
        codes=codes.to(torch.uint8),
        scales=torch.linspace(0.5, 2, 32).view(16, 2),
        zeros=(codes[:, :2] % 5).to(torch.uint8),
        bits=4,
        group_size=32,
    )
    x = torch.linspace(-1, 1, 3 * 64).view(3, 64).cos().to(torch.bfloat16)
    expected = x.double() @ dequantize(weight).T
    try:
        with torch.inference_mode():
            found = _packed(weight, None, 32)(x)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return bool((found.double() - expected).norm() < 0.02 * expected.norm())
