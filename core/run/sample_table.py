"""Sampling parameters on the device, a row a slot, for kernels that draw there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from .staging import Staging

__all__ = ("FILTERED", "PARAMETERS", "SAMPLED", "Draw", "ParameterTable")

# Bits of ``flags``; a row with neither is greedy.
SAMPLED = 1
FILTERED = 2

PARAMETERS = np.dtype(
    [
        ("stream", "<i8"),
        ("top_p", "<f8"),
        ("temperature", "<f4"),
        ("min_score", "<f4"),
        ("top_k", "<i4"),
        ("flags", "<i4"),
    ]
)
"""One row: where its random numbers start; top_p, 1 for none; temperature; the log of min_p; top_k,
the vocabulary's size for none; SAMPLED, and FILTERED where any of the three filters is set."""


class Draw(Protocol):
    """Kernels that draw one token a row, with scratch of their own; a platform may have them.

    A draw is what ``Sampler`` says of it. It launches kernels and nothing else: no copy from or to
    the host, no allocation, so that it can be captured in a graph.
    """

    def __call__(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        out: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        filters: bool = True,
    ) -> None:
        """Draw.

        Args:
            logits: float32, float16 or bfloat16 [M, V], rows contiguous; left as they are.
            slots: int64 [M].
            lengths: int64 [M], the position each draw stands at.
            table: int64 [max_slots + 1, 4], rows of PARAMETERS.
            out: int64 [M], to be filled with tokens; -1 where the best logit is not finite.
            tokens: int32 [max_slots, max_len], where a drawn token is to be written at its slot
                and position; a row without a token writes nothing.
            filters: False promises that no row is FILTERED, which saves launches.
        """


class ParameterTable:
    """Rows of PARAMETERS on a device, changed by one copy however many slots are entered.

    Attributes:
        rows: int64 [max_slots + 1, 4], to be read as PARAMETERS; filled in place, never replaced.
            The last one is for rows that only fill up a batch, and greedy.
    """

    def __init__(self, max_slots: int, device: torch.device) -> None:
        width = PARAMETERS.itemsize // 8
        self.rows = torch.zeros(max_slots + 1, width, dtype=torch.int64, device=device)
        self._staging = Staging(device)
        self._entered: dict[int, np.ndarray] = {}

    def enter(self, slot: int, row: np.ndarray) -> None:
        """Give a slot a row of PARAMETERS, from the next ``upload`` on."""
        self._entered[slot] = row

    def upload(self) -> None:
        """Copy what was entered since the last time; the host does not wait."""
        if not self._entered:
            return
        slots = np.array(list(self._entered), dtype=np.int64)
        rows = np.stack(list(self._entered.values())).view(np.int64).ravel()
        where, values = self._staging.send((slots, rows))
        self.rows[where] = values.view(len(slots), -1)
        self._entered.clear()
