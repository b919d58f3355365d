"""Schedulers: whose tokens are computed in the next step.

A scheduler owns every sequence and every block. Life cycle: ``add`` and ``abort`` at any time;
``plan`` before a step, ``update`` after it. With the overlapped loop ``plan`` for step n + 1 comes
before ``update`` for step n, so a scheduler counts tokens that are still being drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import msgspec

from .capabilities import Capabilities

if TYPE_CHECKING:
    from ..metrics import EngineStats
    from ..request import Request
    from ..step import Delta, Outcome, Plan
    from .policy import Policy

__all__ = ("CONTRACT_VERSION", "Scheduler", "SchedulerSettings")

CONTRACT_VERSION = 1


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The limits a scheduler keeps; all resolved.

    Attributes:
        num_blocks: of the cache, the null block included.
        block_size: tokens a block.
        max_num_seqs: slots.
        max_num_batched_tokens: tokens a step.
        max_model_len: tokens of one sequence.
        max_waiting: requests in the queue.
        chunked_prefill: whether a prompt may be split over steps.
        prefix_caching: whether sequences share blocks of equal prefixes.
        max_drafts: drafts of one row; 0 where nothing proposes any.
        max_draws: tokens drawn in a step, one for each draft and one for each row that samples.
        adaptive: whether fewer drafts, or none, are asked for where they do not pay.
        watches: whether the speculator drafts from hidden states, which a plan may leave unseen:
            drafts for a sequence of which a step went unseen are not to be asked for.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    max_waiting: int = 4096
    chunked_prefill: bool = True
    prefix_caching: bool = True
    max_drafts: int = 0
    max_draws: int = 0
    adaptive: bool = True
    watches: bool = False


class Scheduler(ABC):
    """Decides; imports no torch and sees neither tensors nor strings.

    Args:
        settings: limits.
        policy: order of admission and choice of victims.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def __init__(self, settings: SchedulerSettings, policy: Policy) -> None: ...

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
    def forget_prefixes(self) -> None:
        """Let no later request find what is cached of earlier ones."""

    @abstractmethod
    def stats(self) -> EngineStats:
        """Counters and gauges as of now."""

    @abstractmethod
    def check(self) -> None:
        """Verify that every block and slot has exactly the owners it should have.

        Raises:
            RuntimeError: naming the first that does not.
        """
