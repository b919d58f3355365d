"""Platforms: a kind of device, what it has, and its fastest plain product.

Life cycle: ``available`` without side effects; ``setup`` once in the process that computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    import torch

__all__ = ("CONTRACT_VERSION", "Memory", "Platform", "PlatformDefaults")

CONTRACT_VERSION = 1


class Memory(msgspec.Struct, frozen=True):
    """Bytes of the device, as a whole and not in use."""

    total: int
    free: int


class PlatformDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What ``resolve`` uses where the configuration says nothing.

    Attributes:
        dtypes: supported activation dtypes, best first.
        attention: backend names, best first.
        overlap: whether the overlapped loop pays.
        max_num_seqs: sequences at once.
        max_num_batched_tokens: tokens a step.
    """

    dtypes: tuple[str, ...]
    attention: tuple[str, ...]
    overlap: bool
    max_num_seqs: int
    max_num_batched_tokens: int


class Platform(ABC):
    """One kind of device."""

    device_type: ClassVar[str]
    rank: ClassVar[int] = 0
    """Among available platforms, "auto" takes the greatest."""

    @abstractmethod
    def available(self) -> bool:
        """Whether this machine has such a device, and torch can use it."""

    @abstractmethod
    def setup(self) -> torch.device:
        """Prepare this process (threads, allocator) and return the device to compute on."""

    @abstractmethod
    def defaults(self) -> PlatformDefaults:
        """Values for what the configuration leaves open."""

    @abstractmethod
    def memory(self) -> Memory:
        """Of the device, now."""

    @abstractmethod
    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The fastest x -> x @ weight.T + bias here; may repack, and then keeps only the repack.

        Args:
            weight: [out, in].
            bias: [out] or None.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device is idle."""
