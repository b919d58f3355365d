"""Numbers on their way to the device and back: asynchronous copies by memory that stays put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from .mailbox import Posted

__all__ = ("Fetched", "Numbers", "Staging", "aligned")

# A step sends a few times, and two may be on their way at once.
_BUFFERS = 16
# Numbers that a multiple of 16 bytes holds.
_ALIGNED = 2
_LEAST_NUMBERS = 1024

Numbers = torch.Tensor | Posted


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

    def fetch(self, *parts: Numbers) -> Fetched:
        """Have numbers come from the device: flat int64 tensors, which may be filled anew behind
        that, and what was posted."""
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

    def __init__(self, parts: Sequence[Numbers]) -> None:
        self._parts = parts

    def read(self) -> list[int]:
        return [
            number
            for part in self._parts
            for number in (part.read() if isinstance(part, Posted) else part.tolist())
        ]


class _Landing:
    """Pinned memory that numbers come back to: making some takes longer than a copy.

    Args:
        free: takes it back once they were read.
    """

    def __init__(self, free: list[_Landing]) -> None:
        self._free = free
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(0, dtype=torch.int64)
        self._parts: list[Numbers] = []

    def copy(self, parts: Sequence[Numbers], stream: torch.cuda.Stream) -> None:
        copied = [part for part in parts if not isinstance(part, Posted)]
        count = sum(map(len, copied))
        if count > len(self._pinned):
            room = max(1 << (count - 1).bit_length(), _LEAST_NUMBERS)
            self._pinned = torch.empty(room, dtype=torch.int64, pin_memory=True)
        self._parts.clear()
        begin = 0
        for part in parts:
            if isinstance(part, Posted):
                self._parts.append(part)
                continue
            here = self._pinned[begin : begin + len(part)]
            here.copy_(part, non_blocking=True)
            self._parts.append(here)
            begin += len(part)
        self._copied.record(stream)

    def read(self) -> list[int]:
        self._copied.synchronize()
        found = _Here(self._parts).read()
        self._free.append(self)
        return found
