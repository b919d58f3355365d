"""Numbers on their way to the device and back: asynchronous copies by memory that stays put."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ("Fetched", "Staging")

# A step sends a few times, and two may be on their way at once.
_BUFFERS = 16
# Numbers that a multiple of 16 bytes holds.
_ALIGNED = 2
_LEAST_NUMBERS = 1024


class Staging:
    """Sends int64 arrays to a device.

    A copy from ordinary memory makes the host wait for the device; one from pinned memory does
    not, but the memory must not change before the copy has happened. So buffers take turns, each
    with an event behind its last copy.

    Args:
        device: where to. On a CUDA device, all copies are for its stream that is current now.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[_Buffer] = []
        self._turn = -1
        # Asking which stream is current takes longer than a copy.
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def send(self, parts: Sequence[np.ndarray]) -> tuple[torch.Tensor, ...]:
        """Fresh tensors on the device with these contents, in one copy.

        Each begins on a multiple of 16 bytes, as kernels are compiled for.
        """
        rooms = [len(part) + len(part) % _ALIGNED for part in parts]
        packed = np.zeros(sum(rooms), dtype=np.int64)
        begin = 0
        for part, room in zip(parts, rooms, strict=True):
            packed[begin : begin + len(part)] = part
            begin += room
        if self._device.type == "cpu":
            sent = torch.from_numpy(packed)
        else:
            sent = torch.empty(len(packed), dtype=torch.int64, device=self._device)
            self._next().copy(packed, sent, self._stream)
        found = zip(torch.split_with_sizes(sent, rooms), parts, rooms, strict=True)
        return tuple(x if len(part) == room else x[: len(part)] for x, part, room in found)

    def refill(self, target: torch.Tensor, values: np.ndarray) -> None:
        """Copy values over the beginning of a flat int64 tensor on the device."""
        self._next().copy(values, target[: len(values)], self._stream)

    def fetch(self, values: torch.Tensor) -> Fetched:
        """Copy a flat tensor from the device, which may fill it anew behind that."""
        return Fetched(values, self._stream)

    def _next(self) -> _Buffer:
        if len(self._buffers) < _BUFFERS:
            self._buffers.append(_Buffer())
            return self._buffers[-1]
        self._turn = (self._turn + 1) % _BUFFERS
        return self._buffers[self._turn]


class _Buffer:
    """Pinned memory with an event behind its last copy."""

    def __init__(self) -> None:
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._reserve(_LEAST_NUMBERS)

    def copy(
        self, values: np.ndarray, target: torch.Tensor, stream: torch.cuda.Stream | None
    ) -> None:
        count = len(values)
        self._copied.synchronize()
        if count > len(self._values):
            self._reserve(1 << (count - 1).bit_length())
        self._values[:count] = values
        target.copy_(self._pinned[:count], non_blocking=True)
        self._copied.record(stream)

    def _reserve(self, count: int) -> None:
        self._pinned = torch.empty(count, dtype=torch.int64, pin_memory=True)
        self._values = self._pinned.numpy()


class Fetched:
    """Numbers that the host will have once the device has made them.

    Args:
        values: flat, on any device.
        stream: that makes them; None on a CPU.
    """

    def __init__(self, values: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if stream is not None:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(stream)

    def read(self) -> list[int]:
        """Wait for them."""
        if self._copied is not None:
            self._copied.synchronize()
        found: list[int] = self._values.tolist()
        return found
