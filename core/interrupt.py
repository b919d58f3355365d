"""Ctrl-C that waits until it does no harm: a step of the engine must not be torn apart."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ("Interruptible",)


class Interruptible:
    """A context in which SIGINT waits; on another thread than the main one nothing changes.

    What came acts when ``deliver`` is called, or at the end.
    """

    def __enter__(self) -> Self:
        self._caught: tuple[int, FrameType | None] | None = None
        self._before: Any = signal.getsignal(signal.SIGINT)
        on_main = threading.current_thread() is threading.main_thread()
        self._holds = on_main and callable(self._before)
        if self._holds:
            signal.signal(signal.SIGINT, self._catch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, self._before)
        if error is None:
            self.deliver()

    def deliver(self) -> None:
        """Let a signal that came act as if it came now; the usual handler raises."""
        if self._caught is not None:
            (number, frame), self._caught = self._caught, None
            self._before(number, frame)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = (number, frame)
