"""Executors: carry a plan to every device that takes part, and bring the outcome back.

Life cycle: ``start`` loads the model and sizes the cache; then ``execute`` returns at once with a
handle, and ``Pending.wait`` gives the outcome; ``shutdown`` ends the workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from .capabilities import Capabilities

if TYPE_CHECKING:
    from ..config import Config
    from ..registry import Registry
    from ..step import Outcome, Plan

__all__ = ("CONTRACT_VERSION", "Executor", "ModelInfo", "Pending")

CONTRACT_VERSION = 1


class ModelInfo(msgspec.Struct, frozen=True):
    """What the scheduler must know of the loaded model.

    Attributes:
        num_blocks: of the KV cache, the null block included.
        vocab_size: rows of the head.
    """

    num_blocks: int
    vocab_size: int


class Pending(Protocol):
    """A step on its way."""

    def wait(self) -> Outcome:
        """The outcome; raises what the step raised."""
        ...


class Executor(ABC):
    """Runs plans, in order, one at a time on the device.

    Args:
        config: resolved.
        registry: for the parts it builds.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def __init__(self, config: Config, registry: Registry) -> None: ...

    @abstractmethod
    def start(self, report: Callable[[str, float], None]) -> ModelInfo:
        """Load and get ready; ``report(phase, seconds)`` after each phase.

        Raises:
            CheckpointError: on files that do not fit.
            CapacityError: when the model and the smallest useful cache do not fit.
        """

    @abstractmethod
    def execute(self, plan: Plan) -> Pending:
        """Launch a step."""

    def idle(self) -> bool:
        """Called while there is nothing to run: do a little ahead of need; whether more is left.

        What it does must end within a tenth of a second, since a request may be on its way.
        """
        return False

    @abstractmethod
    def shutdown(self) -> None:
        """Free the devices; safe to call twice."""
