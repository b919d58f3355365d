"""What captured steps have drawn, in memory that the device writes and the host reads.

A copy behind every step takes the host a tenth of what a small model's step takes, and leaves the
device idle for as long as five of its kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .slot_kernels import SlotKernels

__all__ = ("Mailbox", "Posted")

# Letters that are kept; a step is read while the next one runs.
_KEPT = 4


class Posted(NamedTuple):
    """Numbers that a launched step leaves in a mailbox, until three more were launched.

    Attributes:
        mailbox: where.
        turn: counts up with what is posted there.
        size: how many.
    """

    mailbox: Mailbox
    turn: int
    size: int

    def read(self) -> list[int]:
        """The numbers, once the step has run.

        Raises:
            RuntimeError: they are not there, or no longer.
        """
        return self.mailbox.read(self)


class Mailbox:
    """Holds the last few letters; the device counts them, and so does the host.

    Args:
        kernels: post.
        most: numbers of a letter.
        device: posts.
    """

    def __init__(self, kernels: SlotKernels, most: int, device: torch.device) -> None:
        self._kernels = kernels
        self._next = 0
        self._turn = torch.zeros(1, dtype=torch.int64, device=device)
        on_gpu = device.type == "cuda"
        where = torch.device("cpu") if on_gpu else device
        # Each letter begins with its turn.
        self._letters = torch.full(
            (_KEPT, 1 + most), -1, dtype=torch.int64, device=where, pin_memory=on_gpu
        )
        self._on_host = self._letters.numpy() if where.type == "cpu" else np.empty(0)

    def post(self, numbers: torch.Tensor) -> None:
        """Launch what posts int64 [N], so that a graph can hold it."""
        self._kernels.post(numbers, self._turn, self._letters)

    def posted(self, size: int) -> Posted:
        """What was launched last posts at least so many; to be called once for each launch."""
        self._next += 1
        return Posted(self, self._next - 1, size)

    def recount(self) -> None:
        """Launches that were no steps may have posted: the device goes on where the host is."""
        self._turn.fill_(self._next)

    def read(self, posted: Posted) -> list[int]:
        """See ``Posted.read``."""
        letter = self._on_host[posted.turn % _KEPT]
        if letter[0] != posted.turn:
            self.recount()
            raise RuntimeError(f"letter {letter[0]} lies where {posted.turn} was expected")
        found: list[int] = letter[1 : 1 + posted.size].tolist()
        return found
