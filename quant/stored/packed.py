"""compressed-tensors' ``pack-quantized``: integers of four or eight bits in words, by groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...core.errors import CheckpointError
from ..packing import unpack, words_for
from ..weights import GroupedWeight
from .format import FLOATS, Field, Format, Held
from .grouped import group_of, made_up, order_of_groups, unless_middle

__all__ = ("PackedFormat",)


@dataclass(frozen=True)
class PackedFormat(Format):
    """weight_packed int32 [out, in * bits / 32], weight_scale [out, groups], weight_shape [2].

    weight_zero_point, where there are any, is int32 [out * bits / 32, groups], filled up.

    Attributes:
        bits: 4 or 8.
        group_size: -1 for a row.
        symmetric: whether there are no zero points.
        whole: whether the tensor has one scale.
    """

    bits: int
    group_size: int
    symmetric: bool
    whole: bool = False

    @property
    def words(self) -> str:
        return f"pack-quantized with {self.bits} bits and group_size {self.group_size}"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        words = words_for(columns, self.bits)
        if words is None:
            raise CheckpointError(
                f"{name} has {columns} inputs, which {self.words} cannot hold in whole words; "
                "leave the layer out of quantization"
            )
        groups = columns // group_of(name, columns, self.group_size)
        fields = {
            "weight_packed": Field((rows, words), (torch.int32,)),
            "weight_scale": Field((1,) if self.whole else (rows, groups), FLOATS),
            "weight_shape": Field((2,), (torch.int64, torch.int32)),
            # Of checkpoints whose inputs were quantized in the order of their activations.
            "weight_g_idx": Field((columns,), (torch.int32, torch.int64), required=False),
        }
        if not self.symmetric:
            held = -(-rows * self.bits // 32)
            fields["weight_zero_point"] = Field((held, groups), (torch.int32,))
        return fields

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        codes = unpack(tensors["weight_packed"], self.bits)
        rows, columns = codes.shape
        if tensors["weight_shape"].tolist() != [rows, columns]:
            raise CheckpointError(
                f"{name}.weight_shape is {tensors['weight_shape'].tolist()}, and the packed weight "
                f"holds {[rows, columns]}"
            )
        size = group_of(name, columns, self.group_size)
        scales = tensors["weight_scale"]
        if self.whole:
            scales = scales.view(1, 1).expand(rows, 1).contiguous()
        zeros = None
        if not self.symmetric:
            held = unpack(tensors["weight_zero_point"].T, self.bits)
            zeros = unless_middle(held.T[:rows].contiguous(), self.bits)
        order = None
        if "weight_g_idx" in tensors:
            order = order_of_groups(f"{name}.weight_g_idx", tensors["weight_g_idx"], size)
        if order is not None:
            codes = codes.index_select(1, order)
        return GroupedWeight(codes, scales, zeros, self.bits, size, order)

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return made_up(
            rows,
            columns,
            generator,
            bits=self.bits,
            group_size=self.group_size,
            zeros=not self.symmetric,
        )
