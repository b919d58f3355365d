"""Schedulers: whose tokens are computed in the next step.

A scheduler owns every sequence and every block. Life cycle: ``add`` and ``abort`` at any time;
``plan`` before a step, ``update`` after it. With the overlapped loop ``plan`` for step n + 1 comes
before ``update`` for step n, so a scheduler counts tokens that are still being drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from .capabilities import Capabilities

if TYPE_CHECKING:
    from ..metrics import EngineStats
    from ..request import Request
    from ..step import Delta, Outcome, Plan

__all__ = ("CONTRACT_VERSION", "Scheduler")

CONTRACT_VERSION = 1


class Scheduler(ABC):
    """Decides; imports no torch and sees neither tensors nor strings."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: when it can never run (longer than the model's context or the cache).
            Overloaded: when the queue is full.
        """

    @abstractmethod
    def abort(self, request_id: str) -> Delta | None:
        """Drop a request in whatever state; its last delta, or None if it is not known."""

    @abstractmethod
    def plan(self) -> Plan | None:
        """The next step's work; None when there is nothing to compute before an update."""

    @abstractmethod
    def update(self, plan: Plan, outcome: Outcome) -> list[Delta]:
        """Take in a step's tokens; plans are answered in the order they were made."""

    @abstractmethod
    def fail(self, plan: Plan, message: str) -> list[Delta]:
        """The whole step failed: end its sequences with an error and keep the rest."""

    @abstractmethod
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""

    @abstractmethod
    def stats(self) -> EngineStats:
        """Counters and gauges as of now."""

    @abstractmethod
    def check(self) -> None:
        """Verify that every block and slot has exactly the owners it should have.

        Raises:
            RuntimeError: naming the first that does not.
        """
