"""Weights of -1, 0 and 1 with a scale an output: y = (x @ weight.T) * scale.

A checkpoint of it has ``"quantization_config": {"quant_method": "ternary"}`` and, for each linear
layer but the head, ``X.weight`` in int8 and ``X.scale`` in float32. ``quire quantize`` makes one by
``--method ternary --plugin example``.
"""

from __future__ import annotations

from typing import Any, Self

import torch

from quire.core.contracts.capabilities import Capabilities
from quire.core.contracts.platform import Platform, Product
from quire.core.contracts.quant import LinearSpec, LinearWeights, QuantMethod, Rounding
from quire.core.errors import CheckpointError
from quire.quant.unquantized import DenseLinear

__all__ = ("Ternary", "TernaryLinear", "TernaryRounding", "quantize")


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule of BitNet b1.58 (arXiv 2402.17764), with a scale an output.

    Args:
        weight: [out, in].

    Returns:
        int8 [out, in] and float32 [out].
    """
    scale = weight.abs().mean(1).clamp(min=1e-8)
    return (weight / scale[:, None]).round().clamp(-1, 1).to(torch.int8), scale.float()


class TernaryLinear(LinearWeights):
    """The layers of a spec, multiplied by the platform's product.

    Args:
        spec: shapes and names.
        device: of the weights.
        platform: multiplies.
    """

    def __init__(self, spec: LinearSpec, device: torch.device, platform: Platform) -> None:
        self._spec = spec
        self._device = device
        self._platform = platform
        self._fields: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for shard, rows in zip(spec.shards, spec.out_features, strict=True):
            self._fields[f"{shard}.weight"] = (rows, spec.in_features), torch.int8
            self._fields[f"{shard}.scale"] = (rows,), torch.float32
        self._tensors: dict[str, torch.Tensor] = {}
        self._product: Product | None = None

    def names(self) -> set[str]:
        """Two tensors a layer."""
        return set(self._fields)

    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor that looks as it should."""
        shape, dtype = self._fields[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; ternary wants {dtype} {shape}"
            )
        # The stream's tensor is valid until the next one only.
        self._tensors[name] = tensor.to(self._device, copy=True)

    def make_up(self, generator: torch.Generator) -> None:
        """Any of the three, and a small scale."""
        for name, (shape, dtype) in self._fields.items():
            made = torch.empty(shape, dtype=dtype, device=self._device)
            if dtype is torch.int8:
                made.random_(-1, 2, generator=generator)
            self._tensors[name] = made if dtype is torch.int8 else made.fill_(0.02)

    def finish(self) -> None:
        """One dense matrix, of which the platform keeps what it needs."""
        dtype = getattr(torch, self._spec.dtype)
        parts = [
            self._tensors[f"{shard}.weight"] * self._tensors[f"{shard}.scale"][:, None]
            for shard in self._spec.shards
        ]
        self._product = self._platform.product(torch.cat(parts).to(dtype), None)
        self._tensors.clear()

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """[T, in] -> [T, out]."""
        if self._product is None:
            raise RuntimeError("a product was asked for before the weights were loaded")
        return self._product(x)


class TernaryRounding(Rounding):
    """Makes checkpoints; calibration text would change nothing."""

    bits = 8

    def describe(self) -> dict[str, Any]:
        """The method's name."""
        return {"quant_method": "ternary"}

    def round(self, weight: torch.Tensor, gram: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """See ``quantize``."""
        values, scale = quantize(weight)
        return {"weight": values, "scale": scale}


class Ternary(QuantMethod):
    """The method; what it cannot do it refuses by name."""

    capabilities = Capabilities(features=frozenset({"graphs", "overlap", "speculation"}))

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        """There is nothing to read but the method's name."""
        if config is None:
            raise CheckpointError("the checkpoint is not ternary: config.json does not say so")
        return cls(platform)

    def linear(self, spec: LinearSpec, device: torch.device) -> LinearWeights:
        """Ternary, or plain for the head."""
        if not all(self.covers(shard) for shard in spec.shards):
            return DenseLinear(spec, device, self.platform)
        if spec.bias:
            raise CheckpointError(f"{spec.shards[0]} has a bias, which ternary layers have not")
        return TernaryLinear(spec, device, self.platform)

    def covers(self, name: str) -> bool:
        """Every layer but the head."""
        return name != "lm_head"

    @classmethod
    def rounding(cls) -> Rounding:
        """For ``quire quantize``."""
        return TernaryRounding()
