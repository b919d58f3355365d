"""Exporters: put the engine's numbers where an operator looks.

Life cycle: ``engine`` after every step, ``request`` after every request, ``rejected`` for each that
was not taken in, all cheap and never failing; ``render`` when asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..config import Config
    from ..metrics import EngineStats, RequestRecord

__all__ = ("CONTRACT_VERSION", "Exporter", "Rejection")

CONTRACT_VERSION = 1

Rejection = Literal["queue_full", "invalid"]


class Exporter(ABC):
    """Collects numbers of one engine.

    Args:
        config: resolved.
    """

    @abstractmethod
    def __init__(self, config: Config) -> None: ...

    @abstractmethod
    def engine(self, stats: EngineStats) -> None:
        """The engine's counters after a step."""

    @abstractmethod
    def request(self, record: RequestRecord) -> None:
        """A finished request."""

    def rejected(self, reason: Rejection) -> None:  # noqa: B027 - an exporter may leave it out
        """A request that the engine did not take in: its queue is full, or it can never run."""

    @abstractmethod
    def healthy(self, alive: bool) -> None:
        """The engine came up, or died."""

    @abstractmethod
    def render(self) -> tuple[bytes, str]:
        """Everything collected, and its content type."""
