"""Token streams on the training device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ("LOSS_BIT", "Stream", "split_words")

# The top bit of a stream's word says whether the token counts in the loss.
LOSS_BIT = 1 << 15


class Stream:
    """A token stream on the training device."""

    def __init__(self, folder: Path, name: str, device: torch.device) -> None:
        """Read a stream.

        Args:
            folder: Data folder.
            name: Stream's name.
            device: Where to keep it.
        """
        words = np.fromfile(folder / f"{name}.bin", dtype="<u2").astype(np.int32)
        self.words = torch.from_numpy(words).to(device)
        self.starts = torch.from_numpy(np.flatnonzero((words & ~LOSS_BIT) == 0))

    def rows(self, starts: Tensor, length: int) -> Tensor:
        """Cut rows of `length` + 1 words."""
        span = torch.arange(length + 1, device=self.words.device)
        at = starts.to(self.words.device)[:, None] + span
        return self.words[at.clamp_(max=len(self.words) - 1)]

    def sample(self, count: int, length: int, aligned: float, generator: torch.Generator) -> Tensor:
        """Draw random rows, a share of which start at a document's start."""
        limit = len(self.words) - length - 1
        anywhere = torch.randint(limit, (count,), generator=generator)
        documents = torch.searchsorted(self.starts, anywhere, right=True) - 1
        snap = torch.rand(count, generator=generator) < aligned
        starts = torch.where(snap, self.starts[documents.clamp_(min=0)], anywhere)
        return self.rows(starts, length)


def split_words(words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and which targets count, of rows of stream words."""
    ids = (words & (LOSS_BIT - 1)).long()
    return ids[:, :-1], ids[:, 1:], (words[:, 1:] & LOSS_BIT) != 0
