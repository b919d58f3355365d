"""Inputs of captured launches, in memory that the host writes and the device reads.

A copy to the device takes the host as long as launching a whole step, and a small model's steps
with drafts seldom have the inputs of those before them. Where a platform has no kernel that reads
letters, numbers are copied when they are written.
"""

from __future__ import annotations

import numpy as np
import torch

from .slot_kernels import SlotKernels
from .staging import Staging

__all__ = ("Copies", "Inbox")

# Letters that are kept: while one is written, two launches at most may not have read theirs.
_KEPT = 4
# Of a letter: how many blocks and numbers it brings.
_HEAD = 2


class Copies:
    """An inbox where kernels receive nothing: numbers are copied at once, and no letter is sent.

    Args:
        staging: copies.
        numbers: int64 [most], on the device.
    """

    def __init__(self, staging: Staging, numbers: torch.Tensor) -> None:
        self._staging = staging
        self._numbers = numbers

    def begin(self) -> None:
        """See ``Inbox.begin``."""

    def append(self, new: np.ndarray) -> bool:
        """See ``Inbox.append``."""
        return False

    def write(self, numbers: np.ndarray) -> None:
        """See ``Inbox.write``."""
        self._staging.refill(self._numbers, numbers)

    def receive(self) -> None:
        """See ``Inbox.receive``."""

    def launched(self) -> None:
        """See ``Inbox.launched``."""

    def recount(self) -> None:
        """See ``Inbox.recount``."""


class Inbox:
    """Holds the letters of the last few launches; the device counts them, and so does the host.

    A letter brings new blocks for the slot table, and numbers that stay on the device until others
    come, or neither.

    Args:
        kernels: receive.
        numbers: int64 [most], on the device.
        blocks: of the slot table.
        most_blocks: of a letter.
    """

    def __init__(
        self,
        kernels: SlotKernels,
        numbers: torch.Tensor,
        blocks: torch.Tensor,
        most_blocks: int,
    ) -> None:
        self._most_blocks = most_blocks
        self._kernels = kernels
        self._numbers = numbers
        self._blocks = blocks
        self._begin = _HEAD + 3 * most_blocks
        self._next = 0
        self._turn = torch.zeros(1, dtype=torch.int64, device=numbers.device)
        on_gpu = numbers.is_cuda
        where = torch.device("cpu") if on_gpu else numbers.device
        self._letters = torch.zeros(
            (_KEPT, self._begin + len(numbers)), dtype=torch.int64, device=where, pin_memory=on_gpu
        )
        self._on_host: list[np.ndarray] = list(self._letters.numpy())

    def begin(self) -> None:
        """Begin the next launch's letter, which brings nothing yet."""
        self._letter()[:_HEAD] = 0

    def append(self, new: np.ndarray) -> bool:
        """Have it bring N blocks, int64 [3 * N], see ``SlotTable.grown``; False where it has no
        room for them."""
        count = len(new) // 3
        if count > self._most_blocks:
            return False
        letter = self._letter()
        letter[0] = count
        letter[_HEAD : _HEAD + len(new)] = new
        return True

    def write(self, numbers: np.ndarray) -> None:
        """Have it bring the first numbers: int64 [at most as many as there are]."""
        letter = self._letter()
        letter[1] = len(numbers)
        letter[self._begin : self._begin + len(numbers)] = numbers

    def receive(self) -> None:
        """Launch what takes a letter in, so that a graph can hold it: first of all."""
        self._kernels.receive(
            self._turn, self._letters, self._numbers, self._blocks, begin=self._begin
        )

    def launched(self) -> None:
        """What receives was launched; to be called once for each time."""
        self._next += 1

    def recount(self) -> None:
        """Other launches may have received: the device goes on where the host is.

        The letter that is written next may be one that they are yet to read, so they are waited
        for.
        """
        self._turn.fill_(self._next)
        if self._turn.is_cuda:
            torch.cuda.current_stream(self._turn.device).synchronize()

    def _letter(self) -> np.ndarray:
        return self._on_host[self._next % _KEPT]
