"""Capturing work on a CUDA device, to be launched again as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ("Capturing",)

T = TypeVar("T")


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
