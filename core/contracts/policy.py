"""Policies: the order of admission, and the victim of preemption. Nothing else.

The scheduler keeps every invariant; a policy only ranks. ``rank`` is asked once when a request is
queued and once again after a preemption, never per token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

__all__ = ("CONTRACT_VERSION", "Candidate", "Policy")

CONTRACT_VERSION = 1


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """What a policy may know of a request.

    Attributes:
        request_id: for logs.
        priority: the caller's; smaller is sooner.
        arrival: seconds on time.monotonic's clock.
        num_tokens: prompt and emitted tokens so far.
        max_tokens: most tokens it may still emit.
        cache_salt: the tenant, where callers give one.
    """

    request_id: str
    priority: int
    arrival: float
    num_tokens: int
    max_tokens: int
    cache_salt: str


class Policy(ABC):
    """Ranks requests; must be fast and free of side effects."""

    @abstractmethod
    def rank(self, candidate: Candidate) -> tuple[float, ...]:
        """Smaller runs sooner; ties keep the order of arrival."""

    def victim(self, running: Sequence[Candidate]) -> int:
        """Index of the sequence to send back when blocks run out; by default the worst rank."""
        ranks = [(self.rank(candidate), index) for index, candidate in enumerate(running)]
        return max(ranks)[1]
