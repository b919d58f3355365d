"""Capturing work on a CUDA device, to be launched again as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch

__all__ = ("CapturedShapes", "Capturing")

T = TypeVar("T")
Shape = TypeVar("Shape")
Kept = TypeVar("Kept")


class Capturing:
    """Captures on a stream of its own; what it captures shares memory, and runs one at a time.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def __call__(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Run the work once, then capture it.

        Returns:
            What launches it, and its result, whose tensors each launch fills.
        """
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            # Once outside the capture, which must not load or compile a kernel.
            work()
            graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
            try:
                result = work()
            finally:
                graph.capture_end()
        if self._pool is None:
            self._pool = graph.pool()
        torch.cuda.current_stream().wait_stream(stream)
        return graph.replay, result

    def forget(self) -> None:
        """Nothing that was captured will be launched again."""
        self._pool = None


class CapturedShapes(ABC, Generic[Shape, Kept]):
    """What was captured, by shape: ahead of need, the likeliest first, while nothing runs.

    Attributes:
        cold: whether a launch, since somebody last set this to False, had to be captured first or
            ran without what is yet to be captured for it.
    """

    def __init__(self) -> None:
        self.cold = False
        self._graphs: dict[Hashable, Kept] = {}
        self._coming = self._shapes_to_come()

    def capture_ahead(self) -> bool:
        """Capture one more shape; False when all that are likely are there."""
        for shape in self._coming:
            if self._key(shape) not in self._graphs:
                self._graph(shape)
                return True
        return False

    @property
    def num_shapes(self) -> int:
        """Graphs that are likely to be captured."""
        return len({self._key(shape) for shape in self._shapes_to_come()})

    def forget(self) -> None:
        """Drop every graph: the caches they were captured with are gone."""
        self._graphs.clear()
        self._coming = self._shapes_to_come()

    @abstractmethod
    def _shapes_to_come(self) -> Iterator[Shape]:
        """Those that are likely, the commonest first."""

    @abstractmethod
    def _key(self, shape: Shape) -> Hashable:
        """Equal for shapes that one graph serves."""

    @abstractmethod
    def _graph(self, shape: Shape) -> Kept:
        """Capture a shape, and keep it."""
