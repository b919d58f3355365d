"""Quantization methods: how a linear layer's weights are stored, loaded and multiplied.

Life cycle: ``from_checkpoint`` reads and checks the checkpoint's own description; ``linear`` makes
one holder a layer, which takes its tensors by ``load``, repacks in ``finish``, and then only
answers ``apply``. A method whose checkpoints ``quire quantize`` makes has a ``rounding`` as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from .capabilities import Capabilities

if TYPE_CHECKING:
    import torch

    from .platform import Gate, Norm, Platform

__all__ = ("CONTRACT_VERSION", "LinearSpec", "LinearWeights", "QuantMethod", "Rounding")

CONTRACT_VERSION = 1


class LinearSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A linear layer y = x W^T + b, possibly several of the checkpoint's layers side by side.

    Attributes:
        shards: the checkpoint's module names, in output order (``...q_proj``, ``...k_proj``, ...).
        out_features: of each shard.
        in_features: of all.
        bias: whether the layers have one.
        dtype: torch dtype name of activations.
    """

    shards: tuple[str, ...]
    out_features: tuple[int, ...]
    in_features: int
    bias: bool = False
    dtype: str = "float32"


class LinearWeights(ABC):
    """The weights of one LinearSpec, and the product with them."""

    @abstractmethod
    def names(self) -> set[str]:
        """Full checkpoint names of every tensor that must arrive, such as ``a.q_proj.weight``."""

    def optional(self) -> set[str]:
        """Full checkpoint names of tensors that are taken where a checkpoint has them."""
        return set()

    @abstractmethod
    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Take one tensor of ``names`` or ``optional``.

        Raises:
            CheckpointError: on a shape or dtype that does not fit, naming the tensor.
        """

    @abstractmethod
    def make_up(self, generator: torch.Generator) -> None:
        """Fill with small made-up values in place of every ``load``, for benchmarks.

        Args:
            generator: on the device of the weights.
        """

    @abstractmethod
    def finish(self) -> None:
        """All tensors are in: repack for the product and free the originals."""

    @abstractmethod
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The product: x [tokens, in_features] -> [tokens, sum(out_features)], in x's dtype."""

    def takes_gate(self, tokens: int) -> bool:
        """Whether a gate before the product is cheapest inside ``behind_gate``."""
        return False

    def behind_gate(
        self, x: torch.Tensor, gate: Gate, *, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The product with gate(x); see ``platform.GatedProduct``."""
        return self.fused(gate(x), add=add)

    def fused(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The product with what stands around it; see ``platform.Product``.

        A method whose kernels take part of it in overrides this.
        """
        y = self.apply(x if norm is None else norm(x))
        if gate is not None:
            y = gate(y)
        return y if add is None else add.add_(y)


class Rounding(ABC):
    """How checkpoints of a method are made, one matrix at a time.

    Attributes:
        bits: that a weight takes, for the estimate before a run.
    """

    bits: ClassVar[int]

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """``quantization_config`` of config.json, which ``from_checkpoint`` will read."""

    @abstractmethod
    def round(self, weight: torch.Tensor, gram: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Round one layer of the checkpoint; the same values give the same tensors.

        Args:
            weight: float32 [out_features, in_features], not to be written to.
            gram: float32 [in_features, in_features], mean of x^T x over the layer's inputs in the
                calibration text; None without such.

        Returns:
            What ``LinearWeights.names`` asks for, without the module's name: ``scale`` for
            ``a.q_proj.scale``. A bias is not among them: it is stored as it is.
        """


class QuantMethod(ABC):
    """A way to store weights.

    Args:
        platform: of the device that multiplies.
    """

    capabilities: ClassVar[Capabilities]

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        """Read ``quantization_config`` of config.json (None for an unquantized checkpoint).

        Raises:
            CheckpointError: for what the method does not support, naming it and what it does.
        """

    @abstractmethod
    def linear(self, spec: LinearSpec, device: torch.device) -> LinearWeights:
        """A holder for one layer, with its memory not yet filled.

        A layer that ``covers`` excludes gets a plain holder.
        """

    @abstractmethod
    def covers(self, name: str) -> bool:
        """Whether the module of this checkpoint name is stored quantized."""

    def growth(self, name: str, dtype: torch.dtype, device: torch.device) -> float:
        """Bytes that a covered module's weights take for each byte that they are stored in.

        Args:
            name: of the module.
            dtype: of activations.
            device: of the weights.
        """
        return 1.0

    @classmethod
    def rounding(cls) -> Rounding | None:
        """Makes checkpoints of the method; None where ``quire quantize`` has no such way to."""
        return None
