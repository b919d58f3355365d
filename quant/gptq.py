"""GPTQ (Frantar et al., arXiv 2210.17323), as AutoGPTQ and GPTQModel store it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from ..core.contracts.platform import Platform
from ..core.errors import CheckpointError
from ..core.layers.fields import Fields
from .packing import WIDTHS, unpack, words_for
from .stored.format import FLOATS, Field, Format, Held
from .stored.grouped import group_of, made_up, order_of_groups, read_group_size, unless_middle
from .stored.method import StoredMethod
from .stored.names import compiled
from .weights import GroupedWeight

__all__ = ("GPTQ", "GPTQFormat")

_CONVERT = {
    "marlin": "load it with GPTQModel and save it in the format gptq",
    "bitblas": "load it with GPTQModel and save it in the format gptq",
    "ipex": "set checkpoint_format to gptq: the packing is that of gptq",
}


@dataclass(frozen=True)
class GPTQFormat(Format):
    """qweight int32 [in * bits / 32, out], qzeros [groups, out * bits / 32], scales, g_idx [in].

    Attributes:
        bits: of a code.
        group_size: -1 for a row.
        ordered: whether inputs were quantized in the order of their activations.
        second: whether zero points stand as they are (gptq_v2), and not less one.
    """

    bits: int
    group_size: int
    ordered: bool
    second: bool
    symmetric: bool = True

    @property
    def words(self) -> str:
        return f"gptq with {self.bits} bits and group_size {self.group_size}"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        groups = columns // group_of(name, columns, self.group_size)
        return {
            "qweight": Field((self._words(name, columns, "inputs"), rows), (torch.int32,)),
            "qzeros": Field((groups, self._words(name, rows, "outputs")), (torch.int32,)),
            "scales": Field((groups, rows), FLOATS),
            "g_idx": Field((columns,), (torch.int32, torch.int64), required=self.ordered),
        }

    def _words(self, name: str, count: int, what: str) -> int:
        words = words_for(count, self.bits)
        if words is None:
            raise CheckpointError(
                f"{name} has {count} {what}, which {self.words} cannot hold in whole words; leave "
                "the layer out of quantization"
            )
        return words

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        scales = tensors["scales"]
        codes = unpack(tensors["qweight"].T, self.bits)
        size = codes.shape[1] // len(scales)
        order = None
        if "g_idx" in tensors:
            order = order_of_groups(f"{name}.g_idx", tensors["g_idx"], size)
        if order is not None:
            codes = codes.index_select(1, order)
        zeros = unpack(tensors["qzeros"], self.bits)
        if not self.second:
            zeros = zeros + 1 & 2**self.bits - 1
        return GroupedWeight(
            codes=codes,
            scales=scales.T.contiguous(),
            zeros=unless_middle(zeros.T.contiguous(), self.bits),
            bits=self.bits,
            group_size=size,
            order=order,
        )

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return made_up(
            rows,
            columns,
            generator,
            bits=self.bits,
            group_size=self.group_size,
            zeros=not self.symmetric,
            ordered=self.ordered,
        )


class GPTQ(StoredMethod):
    """Reads GPTQ checkpoints.

    Args:
        platform: of the device.
        layer_format: of layers that no rule names.
        rules: pattern and format of layers that differ, None for those not quantized; the first
            that matches the beginning of a name counts.
        head: whether lm_head is quantized.
    """

    def __init__(
        self,
        platform: Platform,
        layer_format: GPTQFormat,
        rules: list[tuple[re.Pattern[str], GPTQFormat | None]],
        *,
        head: bool,
    ) -> None:
        super().__init__(platform)
        self._format = layer_format
        self._rules = rules
        self._head = head

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        fields = Fields(cls.described("gptq", config), "quantization_config.")
        second = _is_second(fields)
        default = GPTQFormat(
            bits=_bits(fields, None),
            group_size=read_group_size(fields),
            ordered=fields.flag("desc_act", False),
            second=second,
            symmetric=fields.flag("sym", True),
        )
        fields.refuse_unless("pack_dtype", "int32")
        rules = fields.section("dynamic")
        found = [(pattern, rules.section(pattern)) for pattern in rules.names()]
        return cls(
            platform,
            default,
            [_rule(pattern, changes, default) for pattern, changes in found],
            head=fields.flag("lm_head", False),
        )

    def format(self, name: str) -> Format | None:
        if name == "lm_head" and not self._head:
            return None
        for pattern, found in self._rules:
            if pattern.match(name):
                return found
        return self._format


def _bits(fields: Fields, default: int | None) -> int:
    bits = fields.integer("bits", default)
    if bits not in WIDTHS:
        raise fields.misfit("bits", f"must be one of {', '.join(map(str, WIDTHS))}")
    return bits


def _is_second(fields: Fields) -> bool:
    if fields.flag("is_marlin_format", False):
        raise CheckpointError(
            "quantization_config.is_marlin_format in config.json is true, and marlin packings are "
            f"not read; {_CONVERT['marlin']}"
        )
    key = "checkpoint_format" if fields.has("checkpoint_format") else "format"
    found = fields.string(key, "gptq")
    if found not in ("gptq", "gptq_v2"):
        advice = _CONVERT.get(found, "save the model in the format gptq")
        raise CheckpointError(
            f"quantization_config.{key} in config.json is {found!r}, and gptq is read in the "
            f"formats gptq and gptq_v2; {advice}"
        )
    return found == "gptq_v2"


def _rule(
    pattern: str, changes: Fields, default: GPTQFormat
) -> tuple[re.Pattern[str], GPTQFormat | None]:
    """An entry of GPTQModel's ``dynamic``: -:pattern leaves out, +:pattern or pattern changes."""
    expression = compiled(pattern.removeprefix("-:").removeprefix("+:"), "dynamic")
    if pattern.startswith("-:"):
        return expression, None
    changes.refuse_unless("pack_dtype", "int32")
    has_group = changes.has("group_size")
    return expression, replace(
        default,
        bits=_bits(changes, default.bits),
        group_size=read_group_size(changes) if has_group else default.group_size,
        ordered=changes.flag("desc_act", default.ordered),
        symmetric=changes.flag("sym", default.symmetric),
    )
