"""Capturing work on a CUDA device, to be launched again as a whole."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch

__all__ = ("LONG_PATIENCE", "CapturedShapes", "Capturing")

# Launches of a shape that changes from step to step before it is captured while somebody waits: a
# capture takes as long as five to thirty steps, and a larger shape wastes a few hundredths of each.
LONG_PATIENCE = 256

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

    While somebody waits, what is missing runs in a larger shape that holds it, or without, and is
    captured if it keeps coming.

    Attributes:
        cold: whether a launch, since somebody last set this to False, had to be captured first or
            ran without what is yet to be captured for it.

    Shapes are hashable, and few.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.cold = False
        self._graphs: dict[Hashable, Kept] = {}
        # By shape: finding out what it shares its graph with takes as long as launching that.
        self._known: dict[Shape, Kept] = {}
        # What launches of shapes that are missing run in, until one more is captured: seeking it
        # takes longer than many a step.
        self._holders: dict[Hashable, tuple[Shape, Kept] | None] = {}
        self._missed: Counter[Hashable] = Counter()
        # Begun later: what a kind tells its shapes from is not there yet.
        self._coming = self._shapes_to_come()
        self._capturing = Capturing(device)

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
        likely = itertools.chain(self._shapes_for_one(), self._shapes_to_come())
        return len({self._key(shape) for shape in likely})

    def forget(self) -> None:
        """Drop every graph: the caches they were captured with are gone."""
        self._graphs.clear()
        self._known.clear()
        self._holders.clear()
        self._missed.clear()
        self._coming = self._shapes_to_come()
        self._capturing.forget()

    @abstractmethod
    def capture_largest(self) -> None:
        """Capture the shape that takes most memory."""

    def capture_for_one(self) -> None:
        """Capture what holds every launch with drafts for one sequence: a capture takes as long as
        many of its steps, so that none should fall among the first of them."""
        for shape in self._shapes_for_one():
            self._graph(shape)

    def _graph(self, shape: Shape) -> Kept:
        """Capture a shape, and keep it."""
        kept = self._graphs[self._key(shape)] = self._capture(shape)
        self._known.clear()
        self._holders.clear()
        return kept

    def _holder(self, key: Hashable, shape: Shape) -> tuple[Shape, Kept] | None:
        """A larger shape that was captured and holds this one, whose key is given."""
        if key not in self._holders:
            self._holders[key] = None
            for larger in self._shapes_that_hold(shape):
                kept = self._graphs.get(self._key(larger))
                if kept is not None:
                    self._holders[key] = larger, kept
                    break
        return self._holders[key]

    def _find(self, shape: Shape) -> tuple[Shape, Kept | None]:
        """What a launch of a shape runs in, and the shape that it was captured for.

        None with the shape itself where it runs without.
        """
        known = self._known.get(shape)
        if known is not None:
            return shape, known
        key = self._key(shape)
        kept = self._graphs.get(key)
        if kept is not None:
            self._known[shape] = kept
            return shape, kept
        self._missed[key] += 1
        wanted: Shape | None = shape
        if self._missed[key] <= self._patience(shape):
            holder = self._holder(key, shape)
            if holder is not None:
                return holder
            wanted = self._stand_in(shape)
        self.cold = True
        return (shape, None) if wanted is None else (wanted, self._graph(wanted))

    @abstractmethod
    def _patience(self, shape: Shape) -> int:
        """Launches without what is captured for the shape itself before that is captured while
        somebody waits."""

    @abstractmethod
    def _stand_in(self, shape: Shape) -> Shape | None:
        """What to capture before that where nothing holds the shape: one that holds it and others
        that are likely; None to run without."""

    @abstractmethod
    def _shapes_for_one(self) -> Iterator[Shape]:
        """What holds every launch with drafts for one sequence."""

    @abstractmethod
    def _shapes_to_come(self) -> Iterator[Shape]:
        """Those that are likely, the commonest first."""

    @abstractmethod
    def _shapes_that_hold(self, shape: Shape) -> Iterator[Shape]:
        """Shapes that a launch can run in without taking much longer, itself among them."""

    @abstractmethod
    def _key(self, shape: Shape) -> Hashable:
        """Equal for shapes that one graph serves."""

    @abstractmethod
    def _capture(self, shape: Shape) -> Kept:
        """Capture a shape, on padding."""
