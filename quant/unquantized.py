"""Weights as they are: one dense matrix a layer, multiplied by the platform's product."""

from __future__ import annotations

from typing import Any, Self

import torch

from ..core.contracts.capabilities import Capabilities
from ..core.contracts.platform import Platform
from ..core.contracts.quant import LinearSpec, LinearWeights, QuantMethod
from ..core.errors import CheckpointError
from ..core.layers.linear import ProductLinear
from ..core.layers.parameter import DUMMY_SCALE, fill

__all__ = ("DenseLinear", "Unquantized")


class DenseLinear(ProductLinear):
    """The layers of a spec as one matrix [sum(out_features), in_features].

    Args:
        spec: shapes and names.
        device: of the weights.
        platform: multiplies, and may repack.
    """

    def __init__(self, spec: LinearSpec, device: torch.device, platform: Platform) -> None:
        dtype: torch.dtype = getattr(torch, spec.dtype)
        rows = sum(spec.out_features)
        self._platform = platform
        self._weight: torch.Tensor | None = torch.empty(
            rows, spec.in_features, dtype=dtype, device=device
        )
        self._bias = torch.empty(rows, dtype=dtype, device=device) if spec.bias else None
        self._targets: dict[str, torch.Tensor] = {}
        for kind, whole in (("weight", self._weight), ("bias", self._bias)):
            if whole is not None:
                parts = torch.split(whole, list(spec.out_features))
                self._targets |= {
                    f"{shard}.{kind}": part for shard, part in zip(spec.shards, parts, strict=True)
                }
        self._names = frozenset(self._targets)

    def names(self) -> set[str]:
        return set(self._names)

    def load(self, name: str, tensor: torch.Tensor) -> None:
        fill(self._targets[name], name, tensor)

    def make_up(self, generator: torch.Generator) -> None:
        for target in self._targets.values():
            target.normal_(0.0, DUMMY_SCALE, generator=generator)

    def finish(self) -> None:
        if self._weight is None:
            return
        self._product = self._platform.product(self._weight, self._bias)
        # The product keeps what it needs; what it repacked need not stay twice.
        self._weight = None
        self._targets.clear()


class Unquantized(QuantMethod):
    """The method of checkpoints that were not quantized."""

    capabilities = Capabilities(features=frozenset({"graphs", "overlap", "speculation"}))

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        if config is not None:
            method = config.get("quant_method", "an unnamed method")
            raise CheckpointError(
                f"the checkpoint is quantized by {method}; set model.quantization to it, or to auto"
            )
        return cls(platform)

    def linear(self, spec: LinearSpec, device: torch.device) -> LinearWeights:
        return DenseLinear(spec, device, self.platform)

    def covers(self, name: str) -> bool:
        return False
