"""Grammars beside drafts: a mask for each draw of a row, and a matcher that ends where it does.

A draw behind a draft counts only if the draft was right, and then stands where the grammar has
taken the draft in. So the matcher runs ahead over the drafts, leaving a mask at every draw, and is
taken back over those that verification rejects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..contracts.grammar import Matcher

__all__ = ("GrammarRow", "forbid")


class GrammarRow:
    """One sequence's grammar, step by step: ``fill`` before the draws, ``settle`` after them.

    Args:
        matcher: that has accepted what the sequence has generated.
        stop_ids: tokens that end the sequence; nothing is asked of the matcher behind one.
    """

    def __init__(self, matcher: Matcher, stop_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._stop_ids = frozenset(stop_ids)
        self._ahead: list[int] = []

    def fill(self, drafts: Sequence[int], masks: torch.Tensor) -> None:
        """Say what may be drawn, at the row's end and behind each draft.

        Behind a draft that the grammar forbids, or that ends the sequence, no draw counts, and
        everything may be drawn.

        Args:
            drafts: of the row.
            masks: int32 [drafts + 1, ceil(vocabulary / 32)], a bit a token, to be filled.
        """
        masks.fill_(-1)
        self._matcher.fill(masks[0])
        for index, token in enumerate(drafts, 1):
            if token in self._stop_ids or not self._matcher.accept(token):
                break
            self._ahead.append(token)
            self._matcher.fill(masks[index])

    def settle(self, tokens: Sequence[int]) -> None:
        """Follow what was drawn: the drafts that were accepted, and a token behind them, or the
        sequence's end.

        Raises:
            ValueError: for a token that its mask forbids.
        """
        kept = 0
        while kept < min(len(tokens), len(self._ahead)) and tokens[kept] == self._ahead[kept]:
            kept += 1
        self._matcher.rewind(len(self._ahead) - kept)
        self._ahead.clear()
        for token in tokens[kept:]:
            if token in self._stop_ids:
                break
            if not self._matcher.accept(token):
                raise ValueError(f"token {token} was drawn against the grammar")


def forbid(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Set the logits of tokens that masks forbid to minus infinity.

    Args:
        logits: float [M, V], changed in place.
        rows: int64 [G], which of them have a mask.
        masks: int32 [G, ceil(V / 32)].
    """
    bits = torch.arange(32, device=masks.device, dtype=masks.dtype)
    allowed = (masks.unsqueeze(-1) >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
    logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)
