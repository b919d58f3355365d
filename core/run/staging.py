"""Numbers on their way to the device and back: asynchronous copies by memory that stays put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

__all__ = ("Fetched", "Staging", "aligned")

# A step sends a few times, and two may be on their way at once.
_BUFFERS = 16
# Numbers that a multiple of 16 bytes holds.
_ALIGNED = 2
_LEAST_NUMBERS = 1024


def aligned(count: int) -> int:
    """Numbers to leave room for, so that what follows begins on a multiple of 16 bytes, as kernels
    are compiled for."""
    return count + count % _ALIGNED


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
        self._landings: list[_Landing] = []
        # Asking which stream is current takes longer than a copy.
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def send(self, parts: Sequence[np.ndarray]) -> tuple[torch.Tensor, ...]:
        """Fresh tensors on the device with these contents, in one copy, each of them aligned."""
        rooms = [aligned(len(part)) for part in parts]
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

    def fetch(self, *parts: torch.Tensor) -> Fetched:
        """Copy flat int64 tensors from the device, which may fill them anew behind that."""
        if self._stream is None:
            return _Here(parts)
        landing = self._landings.pop() if self._landings else _Landing(self._landings)
        landing.copy(parts, self._stream)
        return landing

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


class Fetched(Protocol):
    """Numbers that the host will have once the device has made them."""

    def read(self) -> list[int]:
        """Wait for them; only once."""
        ...


class _Here:
    """Numbers on a CPU."""

    def __init__(self, parts: tuple[torch.Tensor, ...]) -> None:
        self._parts = parts

    def read(self) -> list[int]:
        return [number for part in self._parts for number in part.tolist()]


class _Landing:
    """Pinned memory that numbers come back to: making some takes longer than a copy.

    Args:
        free: takes it back once they were read.
    """

    def __init__(self, free: list[_Landing]) -> None:
        self._free = free
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(0, dtype=torch.int64)
        self._count = 0

    def copy(self, parts: Sequence[torch.Tensor], stream: torch.cuda.Stream) -> None:
        sizes = [part.numel() for part in parts]
        count = self._count = sum(sizes)
        if count > self._pinned.numel():
            room = max(1 << (count - 1).bit_length(), _LEAST_NUMBERS)
            self._pinned = torch.empty(room, dtype=torch.int64, pin_memory=True)
        begin = 0
        for part, size in zip(parts, sizes, strict=True):
            self._pinned[begin : begin + size].copy_(part, non_blocking=True)
            begin += size
        self._copied.record(stream)

    def read(self) -> list[int]:
        self._copied.synchronize()
        found: list[int] = self._pinned[: self._count].tolist()
        self._free.append(self)
        return found
