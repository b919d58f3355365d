"""Weights in float8_e4m3fn with scales beside them, and plain ones that become so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...core.errors import CheckpointError
from ...core.layers.parameter import DUMMY_SCALE
from ..activations import FLOAT8_MAX, as_float8, float8_rounded
from ..weights import Float8Weight
from .format import FLOATS, Field, Format, Held, normal

__all__ = ("Float8Format", "Float8Names", "to_float8")

_SCALES = (*FLOATS, torch.float8_e8m0fnu)


@dataclass(frozen=True)
class Float8Names:
    """What a format calls the scales; of several names a checkpoint has one.

    Attributes:
        scale: of weights.
        input_scale: of activations.
    """

    scale: tuple[str, ...] = ("weight_scale",)
    input_scale: tuple[str, ...] = ("input_scale",)


@dataclass(frozen=True)
class Float8Format(Format):
    """weight float8_e4m3fn [out, in], a scale a tensor, an output or a block: W = weight * scale.

    Attributes:
        strategy: ``tensor``, ``channel`` or ``block``.
        static: whether activations have a scale of their own in the checkpoint.
        names: of the scales.
        block: side of a block.
    """

    strategy: str
    static: bool = False
    names: Float8Names = Float8Names()
    block: int = 128

    @property
    def words(self) -> str:
        return f"fp8 with scales by {self.strategy}"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        shape = {
            "tensor": (1,),
            "channel": (rows, 1),
            "block": (-(-rows // self.block), -(-columns // self.block)),
        }[self.strategy]
        fields = {"weight": Field((rows, columns), (torch.float8_e4m3fn,))}
        for key in self.names.scale:
            fields[key] = Field(shape, _SCALES, required=len(self.names.scale) == 1)
        for key in self.names.input_scale if self.static else ():
            fields[key] = Field((1,), FLOATS, required=len(self.names.input_scale) == 1)
        return fields

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        values = tensors["weight"]
        scales = _one_of(name, tensors, self.names.scale).float()
        if self.strategy == "tensor":
            scales = scales.view(1, 1).expand(len(values), 1)
        input_scale = None
        if self.static:
            input_scale = _one_of(name, tensors, self.names.input_scale).float().view(())
        block = self.block if self.strategy == "block" else None
        return Float8Weight(values, scales.contiguous(), block, input_scale)

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        made = normal(rows, columns, generator)
        if self.strategy != "block":
            input_scale = torch.tensor(0.05, device=generator.device) if self.static else None
            found = to_float8(made)
            return Float8Weight(found.values, found.scales, None, input_scale)
        shape = (-(-rows // self.block), -(-columns // self.block))
        scale = 5 * DUMMY_SCALE / FLOAT8_MAX
        values = as_float8(made / scale)
        scales = torch.full(shape, scale, device=generator.device)
        return Float8Weight(values, scales, self.block)


def to_float8(weight: torch.Tensor) -> Float8Weight:
    """The nearest 8-bit floats with a scale an output.

    Args:
        weight: [N, K], plain.
    """
    values, scales = float8_rounded(weight, None, None)
    return Float8Weight(values.to(torch.float8_e4m3fn), scales)


def _one_of(name: str, tensors: Mapping[str, torch.Tensor], keys: tuple[str, ...]) -> torch.Tensor:
    found = [key for key in keys if key in tensors]
    if len(found) != 1:
        names = " or ".join(f"{name}.{key}" for key in keys)
        problem = "both" if found else "not"
        raise CheckpointError(f"the checkpoint must hold {names}, and {problem} came")
    return tensors[found[0]]
