"""Integer weights with a scale a group of columns, as kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch

from ..weights import GroupedWeight
from .layout import pack

__all__ = ("Packed", "packed_width", "part_of_groups")

_STEP = 128
"""Columns that one step multiplies at most."""
_HELD = 4
"""Zero points of a row that a word holds: those of so many groups, one behind the other."""


@dataclass(frozen=True)
class Packed:
    """Integer weights as kernels read them.

    Attributes:
        words: of ``layout.pack``.
        scales: [groups, N].
        zeros: None where all are 2^(bits - 1). Of 4-bit codes int16 [ceil(groups / 4), N], four
            groups' zero points of a row in a word, the first in the last bits: so they take what
            they must, and are read like the scales. Of 8-bit codes [groups, N] in the activations'
            dtype, negated.
        bits: 4 or 8.
        n: rows of the matrix.
        k: columns.
        part: columns that one step multiplies, all of one group.
        parts: steps that a group spans.
        order: which input each column multiplies; None where it is the column's own.
    """

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bits: int
    n: int
    k: int
    part: int
    parts: int
    order: torch.Tensor | None = None

    @classmethod
    def of(cls, weight: GroupedWeight, dtype: torch.dtype) -> Packed:
        """Pack a weight.

        Two and three bits take four bits each, and so do four; groups that are no multiple of 64
        columns have codes of eight.

        Args:
            weight: on the device that multiplies.
            dtype: of activations: bfloat16 or float16.

        Raises:
            ValueError: for groups that share no multiple of 32 with 128 columns.
        """
        n, k = weight.codes.shape
        single = weight.group_size >= k
        part = part_of_groups(weight)
        if part is None:
            raise ValueError(
                f"groups of {weight.group_size} columns are not supported by the GPU's kernels: a "
                f"multiple of 32 is, and one group a row"
            )
        bits = packed_width(weight, part)
        zeros = weight.zeros
        if zeros is None and bits != weight.bits:
            zeros = torch.full_like(weight.scales, 2 ** (weight.bits - 1), dtype=torch.uint8)
        if zeros is not None:
            zeros = _four_in_a_word(zeros.t()) if bits == 4 else -zeros.t().to(dtype).contiguous()
        return cls(
            words=pack(weight.codes, bits, part),
            scales=weight.scales.t().contiguous(),
            zeros=zeros,
            bits=bits,
            n=n,
            k=k,
            part=part,
            parts=-(-k // part) if single else weight.group_size // part,
            order=None if weight.order is None else weight.order.to(torch.int32),
        )


def packed_width(weight: GroupedWeight, part: int) -> int:
    """Bits that a code takes, where so many columns are read with one scale."""
    return 4 if weight.bits <= 4 and part >= 64 else 8


def part_of_groups(weight: GroupedWeight) -> int | None:
    """Columns that are read with one scale; None where a group is no multiple of 32 of them."""
    single = weight.group_size >= weight.codes.shape[1]
    part = _STEP if single else gcd(weight.group_size, _STEP)
    return part if part >= 32 else None


def _four_in_a_word(zeros: torch.Tensor) -> torch.Tensor:
    """uint8 [groups, N] below 16 as int16 [ceil(groups / 4), N]."""
    groups, n = zeros.shape
    padded = zeros.new_zeros(-(-groups // _HELD) * _HELD, n, dtype=torch.int32)
    padded[:groups] = zeros
    places = 4 * torch.arange(_HELD, dtype=torch.int32, device=zeros.device)
    words = (padded.view(-1, _HELD, n) << places[:, None]).sum(1)
    return words.to(torch.int16)
