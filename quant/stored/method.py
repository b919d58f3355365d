"""What the methods that read quantized checkpoints share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from ...core.contracts.capabilities import Capabilities
from ...core.contracts.quant import LinearSpec, LinearWeights, QuantMethod
from ...core.errors import CheckpointError
from ..products import held_bits
from ..unquantized import DenseLinear
from ..weights import GroupedWeight
from .format import Format, OnLoad, Plain
from .linear import StoredLinear

__all__ = ("QUANTIZES", "READS", "StoredMethod")

READS = Capabilities(features=frozenset({"graphs", "overlap", "speculation"}))
"""Of a method that reads quantized checkpoints."""
QUANTIZES = Capabilities(features=READS.features | {"quantizes"})
"""Of one that takes plain checkpoints as well."""
_SPECIMEN = 128
"""Inputs and outputs of a layer that stands for larger ones."""


class StoredMethod(QuantMethod):
    """A method that knows each layer's format by its name."""

    capabilities = READS

    @abstractmethod
    def format(self, name: str) -> Format | None:
        """How the module of this name is stored; None for plainly."""

    def linear(self, spec: LinearSpec, device: torch.device) -> LinearWeights:
        formats = [self.format(shard) for shard in spec.shards]
        if not any(formats):
            return DenseLinear(spec, device, self.platform)
        plain = Plain(getattr(torch, spec.dtype))
        return StoredLinear(spec, [found or plain for found in formats], device, self.platform)

    def covers(self, name: str) -> bool:
        return self.format(name) is not None

    def growth(self, name: str, dtype: torch.dtype, device: torch.device) -> float:
        form = self.format(name)
        if form is None:
            return 1.0
        generator = torch.Generator(device).manual_seed(0)
        held = form.make_up(_SPECIMEN, _SPECIMEN, generator)
        if isinstance(held, torch.Tensor):
            return 1.0
        stored = 8.0
        if isinstance(form, OnLoad):
            stored = 16.0
        elif isinstance(held, GroupedWeight):
            zero = 0 if held.zeros is None else held.bits
            stored = held.bits + (16 + zero) / held.group_size
        return held_bits(held, dtype, self.platform) / stored

    @staticmethod
    def described(method: str, config: dict[str, Any] | None) -> dict[str, Any]:
        """The checkpoint's quantization_config, which must be there and be the method's.

        Raises:
            CheckpointError: otherwise.
        """
        if config is None:
            raise CheckpointError(
                f"model.quantization is {method!r}, and config.json has no quantization_config, so "
                f"the checkpoint was not quantized; `quire quantize --method {method}` makes one "
                "that is, and fp8 and int8 quantize while loading"
            )
        found = config.get("quant_method")
        if found != method:
            raise CheckpointError(
                f"quantization_config.quant_method in config.json is {found!r}, and "
                f"model.quantization is {method!r}; leave the setting out"
            )
        return config
