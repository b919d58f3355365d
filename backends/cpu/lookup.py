"""Runs of tokens that a row has had before, found on a CPU."""

from __future__ import annotations

import torch

from .compiled import Call, compiled

__all__ = ("Lookup",)

_ROWS = 4
"""That are worth another thread."""


class Lookup:
    """Finds the longest run of a row's last tokens that stands earlier, at its latest place there.

    Args:
        least: tokens of a run.
        longest: tokens that are looked at.
        each: drafts for each token of the run; 0 for as many as asked for.
    """

    def __init__(self, least: int, longest: int, each: int) -> None:
        self._settings = least, longest, each
        self._call = Call(compiled("lookup"), 10, ())

    def __call__(
        self, tokens: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, most: int
    ) -> torch.Tensor:
        """What followed the run of each row.

        Args:
            tokens: int32 [max_slots, positions].
            slots: int64 [N], the rows.
            lengths: int64 [N], tokens of each.
            most: drafts of a row.

        Returns:
            int64 [N, most], -1 where nothing is proposed.
        """
        rows = slots.shape[0]
        out = torch.empty(rows, most, dtype=torch.int64)
        threads = min(torch.get_num_threads(), 1 + rows // _ROWS)
        places = tokens.data_ptr(), tokens.stride(0), slots.data_ptr(), lengths.data_ptr(), rows
        self._call(threads, *places, *self._settings, out.data_ptr(), most)
        return out
