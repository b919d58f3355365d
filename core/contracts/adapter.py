"""Adapters: small changes to a model's linear layers, chosen per request.

Life cycle: ``load`` puts an adapter in a slot; every step ``prepare`` names the adapter slot of
each token and ``add`` adds its part to a layer's output; ``unload`` frees the slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ("CONTRACT_VERSION", "AdapterMethod")

CONTRACT_VERSION = 1


class AdapterMethod(ABC):
    """Keeps up to a fixed number of adapters on the device."""

    @abstractmethod
    def load(self, slot: int, path: str) -> None:
        """Read an adapter's folder into a slot.

        Raises:
            CheckpointError: when it does not fit the model, naming the tensor.
        """

    @abstractmethod
    def unload(self, slot: int) -> None:
        """Free a slot; no running sequence uses it."""

    @abstractmethod
    def prepare(self, slots: torch.Tensor) -> None:
        """The step's adapter of each token: int32 [T], -1 for none."""

    @abstractmethod
    def add(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y plus each token's adapter applied to x, for the linear layer of that name."""
