"""Speculators: guess the next tokens of a sequence, to be verified by the model in one step.

A speculator only proposes. Verification is the engine's, happens once, and is exact, so a wrong
guess costs time and never changes a result. Life cycle of a sequence: ``begin``, then ``propose``
and ``accepted`` in turn, then ``end``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from .capabilities import Capabilities

__all__ = ("CONTRACT_VERSION", "Speculator")

CONTRACT_VERSION = 1


class Speculator(ABC):
    """Proposes chains of draft tokens, slot by slot."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def begin(self, slot: int, token_ids: Sequence[int]) -> None:
        """A sequence with these tokens enters the slot."""

    @abstractmethod
    def propose(self, slots: Sequence[int], most: int) -> list[list[int]]:
        """At most ``most`` draft tokens for each slot, likeliest chain first to last; may be []."""

    @abstractmethod
    def accepted(self, slot: int, token_ids: Sequence[int], drafts_kept: int) -> None:
        """The sequence grew by these tokens, the first drafts_kept of which were proposed."""

    @abstractmethod
    def end(self, slot: int) -> None:
        """The slot is given up; forget it."""
