"""Weights in bytes with a scale an output, and plain ones that become so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...core.layers.parameter import DUMMY_SCALE
from ..activations import INT8_MAX
from ..weights import Int8Weight
from .format import FLOATS, Field, Format, Held

__all__ = ("Int8Format", "Int8OnLoad", "to_int8")

_LEAST = 1e-12
"""Of scales: rows of zeros stay zeros."""


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
        return to_int8(_normal(rows, columns, generator))


class Int8OnLoad(Format):
    """Plain weights, rounded to bytes with a scale an output when they are read."""

    @property
    def words(self) -> str:
        return "a layer that is quantized while loading"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        return {"weight": Field((rows, columns), FLOATS)}

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        return to_int8(tensors["weight"])

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return to_int8(_normal(rows, columns, generator))


def to_int8(weight: torch.Tensor) -> Int8Weight:
    """The nearest bytes with a scale an output.

    Args:
        weight: [N, K], plain.
    """
    wide = weight.float()
    scales = (wide.abs().amax(1, keepdim=True) / INT8_MAX).clamp_(min=_LEAST)
    values = (wide / scales).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return Int8Weight(values, scales)


def _normal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    made = torch.empty(rows, columns, dtype=torch.bfloat16, device=generator.device)
    return made.normal_(0.0, DUMMY_SCALE, generator=generator)
