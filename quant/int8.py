"""Bytes with a scale an output, made of a plain checkpoint while it is loaded."""

from __future__ import annotations

from typing import Any, Self

from ..core.contracts.platform import Platform
from ..core.errors import CheckpointError
from .stored.format import Format, OnLoad
from .stored.int8 import to_int8
from .stored.method import QUANTIZES, StoredMethod

__all__ = ("Int8",)


class Int8(StoredMethod):
    """Rounds all layers but the head; activations are rounded token by token."""

    capabilities = QUANTIZES

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        if config is not None:
            raise CheckpointError(
                "model.quantization is 'int8', which quantizes plain checkpoints, and this one is "
                f"quantized by {config.get('quant_method')!r}; leave the setting out"
            )
        return cls(platform)

    def format(self, name: str) -> Format | None:
        return None if name == "lm_head" else OnLoad(to_int8)
