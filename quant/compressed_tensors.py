"""compressed-tensors, as llm-compressor stores it: FP8, INT8 and packed integers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

from ..core.contracts.platform import Platform
from ..core.errors import CheckpointError
from ..core.layers.fields import Fields
from .stored.float8 import Float8Format
from .stored.format import Format
from .stored.grouped import read_group_size
from .stored.int8 import Int8Format
from .stored.method import StoredMethod
from .stored.names import compiled
from .stored.packed import PackedFormat

__all__ = ("CompressedTensors",)

_CLASS = "Linear"
_BLOCK = 128
_SUPPORTED = "W4A16 and W8A16 (pack-quantized), FP8 (float-quantized) and W8A8 (int-quantized)"


class _Names:
    """A list of names, regular expressions after ``re:``, or the class of every linear layer."""

    def __init__(self, entries: Sequence[str], key: str) -> None:
        self._exact = frozenset(entries)
        patterns = [entry.removeprefix("re:") for entry in entries if entry.startswith("re:")]
        self._patterns: list[re.Pattern[str]] = [compiled(pattern, key) for pattern in patterns]

    def name(self, module: str) -> bool:
        return module in self._exact or any(found.match(module) for found in self._patterns)

    @property
    def everything(self) -> bool:
        return _CLASS in self._exact


class CompressedTensors(StoredMethod):
    """Reads compressed-tensors checkpoints.

    Args:
        platform: of the device.
        groups: which modules, and how they are stored; one that names a module goes before one
            for all of its class.
        ignore: modules that are not quantized.
    """

    def __init__(
        self, platform: Platform, groups: list[tuple[_Names, Format]], ignore: _Names
    ) -> None:
        super().__init__(platform)
        self._groups = groups
        self._ignore = ignore

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        fields = Fields(cls.described("compressed-tensors", config), "quantization_config.")
        _refuse_extras(fields)
        groups = fields.section("config_groups")
        if not groups.names():
            raise fields.misfit("config_groups", "must say how layers are quantized")
        default = fields.string("format", "")
        found = []
        for name in groups.names():
            group = groups.section(name)
            key = f"quantization_config.config_groups.{name}.targets"
            found.append((_Names(group.strings("targets"), key), _format(group, default)))
        ignore = _Names(fields.strings("ignore", []), "quantization_config.ignore")
        return cls(platform, found, ignore)

    def format(self, name: str) -> Format | None:
        if self._ignore.name(name) or self._ignore.everything:
            return None
        for names, found in self._groups:
            if names.name(name):
                return found
        return next((found for names, found in self._groups if names.everything), None)


def _refuse_extras(fields: Fields) -> None:
    """What changes the arithmetic around the products."""
    sparsity = fields.section("sparsity_config")
    sparsity.refuse_unless("format", "dense")
    transforms = fields.section("transform_config").section("config_groups")
    if transforms.names():
        raise fields.misfit("transform_config", "is not supported; quantize without transforms")
    if fields.has("kv_cache_scheme"):
        scheme = fields.section("kv_cache_scheme")
        for key, value in (
            ("num_bits", 8),
            ("type", "float"),
            ("strategy", "tensor"),
            ("dynamic", False),
            ("symmetric", True),
        ):
            scheme.refuse_unless(key, value)


def _format(group: Fields, default: str) -> Format:
    stored = group.string("format", default)
    weights = group.section("weights")
    group.refuse_unless("output_activations", None)
    weights.refuse_unless("dynamic", False)
    kind = weights.choice("type", ("int", "float"), "int")
    if stored == "pack-quantized":
        return _packed(group, weights)
    if stored in ("float-quantized", "naive-quantized") and kind == "float":
        return _float8(group, weights)
    if stored in ("int-quantized", "naive-quantized") and kind == "int":
        return _int8(group, weights)
    raise CheckpointError(
        f"quantization_config in config.json has the format {stored!r} with weights of the type "
        f"{kind}, and compressed-tensors is read as {_SUPPORTED}; quantize the model again by one "
        "of these"
    )


def _packed(group: Fields, weights: Fields) -> Format:
    if group.has("input_activations"):
        raise group.misfit("input_activations", "must be null with packed weights")
    weights.refuse_unless("type", "int")
    bits = weights.integer("num_bits")
    if bits not in (4, 8):
        raise weights.misfit("num_bits", "must be 4 or 8")
    strategy = weights.choice("strategy", ("group", "channel", "tensor"))
    size = read_group_size(weights) if strategy == "group" else -1
    symmetric = weights.flag("symmetric", True)
    if strategy == "tensor" and not symmetric:
        raise weights.misfit("symmetric", "must be true where the tensor has one scale")
    return PackedFormat(bits, size, symmetric, strategy == "tensor")


def _float8(group: Fields, weights: Fields) -> Format:
    weights.refuse_unless("num_bits", 8)
    weights.refuse_unless("symmetric", True)
    strategy = weights.choice("strategy", ("tensor", "channel", "block"))
    activations = _activations(group, "float")
    static = not activations.flag("dynamic", False)
    if strategy == "block":
        weights.refuse_unless("block_structure", [_BLOCK, _BLOCK])
        if static:
            raise activations.misfit("dynamic", "must be true with blocks")
        activations.refuse_unless("group_size", _BLOCK)
    elif static:
        activations.refuse_unless("strategy", "tensor")
    else:
        activations.choice("strategy", ("token", "tensor"))
    return Float8Format(strategy, static)


def _int8(group: Fields, weights: Fields) -> Format:
    weights.refuse_unless("num_bits", 8)
    weights.refuse_unless("symmetric", True)
    strategy = weights.choice("strategy", ("tensor", "channel"))
    activations = _activations(group, "int")
    activations.refuse_unless("symmetric", True)
    if not activations.flag("dynamic", False):
        raise activations.misfit("dynamic", "must be true: int8 activations are scaled by token")
    return Int8Format(strategy == "tensor")


def _activations(group: Fields, kind: str) -> Fields:
    if not group.has("input_activations"):
        raise group.misfit(
            "input_activations", "must be there: 8-bit weights multiply 8-bit activations"
        )
    activations = group.section("input_activations")
    activations.refuse_unless("num_bits", 8)
    activations.refuse_unless("type", kind)
    return activations
