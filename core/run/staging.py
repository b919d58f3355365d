"""Numbers on their way to the device: one asynchronous copy from memory that stays put."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ("Staging",)

# A step sends a few times, and two may be on their way at once.
_BUFFERS = 16
# Numbers that a multiple of 16 bytes holds.
_ALIGNED = 2


class Staging:
    """Sends int64 arrays to a device.

    A copy from ordinary memory makes the host wait for the device; one from pinned memory does
    not, but the memory must not change before the copy has happened. So buffers take turns, each
    with an event behind its last copy.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[torch.Tensor | None] = [None] * _BUFFERS
        self._copied: list[torch.cuda.Event | None] = [None] * _BUFFERS
        self._turn = 0

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
            self._copy(packed, sent)
        found = zip(torch.split_with_sizes(sent, rooms), parts, rooms, strict=True)
        return tuple(x if len(part) == room else x[: len(part)] for x, part, room in found)

    def refill(self, target: torch.Tensor, values: np.ndarray) -> None:
        """Copy values over the beginning of a flat int64 tensor on the device."""
        self._copy(values, target[: len(values)])

    def _copy(self, values: np.ndarray, target: torch.Tensor) -> None:
        turn = self._turn
        self._turn = (turn + 1) % _BUFFERS
        event, pinned = self._copied[turn], self._pinned[turn]
        if event is None:
            event = self._copied[turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        else:
            event.synchronize()
        if pinned is None or len(pinned) < len(values):
            size = 1 << (len(values) - 1).bit_length()
            pinned = self._pinned[turn] = torch.empty(size, dtype=torch.int64, pin_memory=True)
        staged = pinned[: len(values)]
        staged.numpy()[:] = values
        target.copy_(staged, non_blocking=True)
        event.record()
