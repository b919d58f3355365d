"""Weights in bytes with a scale an output, and plain ones that become so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..activations import int8_rounded
from ..weights import Int8Weight
from .format import FLOATS, Field, Format, Held, normal

__all__ = ("Int8Format", "to_int8")


@dataclass(frozen=True)
class Int8Format(Format):
    """weight int8 [out, in], weight_scale of the tensor or [out, 1]: W = weight * scale.

    Attributes:
        whole: whether the tensor has one scale.
    """

    whole: bool = False

    @property
    def words(self) -> str:
        return "int8 with scales by " + ("tensor" if self.whole else "channel")

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        return {
            "weight": Field((rows, columns), (torch.int8,)),
            "weight_scale": Field((1,) if self.whole else (rows, 1), FLOATS),
        }

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        values, scales = tensors["weight"], tensors["weight_scale"].float()
        return Int8Weight(values, scales.view(-1, 1).expand(len(values), 1).contiguous())

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return to_int8(normal(rows, columns, generator))


def to_int8(weight: torch.Tensor) -> Int8Weight:
    """The nearest bytes with a scale an output.

    Args:
        weight: [N, K], plain.
    """
    values, scales = int8_rounded(weight)
    return Int8Weight(values.to(torch.int8), scales)
