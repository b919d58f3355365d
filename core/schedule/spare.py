"""What a step has room for beyond the next token of each sequence, divided among their drafts."""

from __future__ import annotations

__all__ = ("Spare",)


class Spare:
    """Draws and tokens that drafts may take of the step that is planned.

    Where those that stand ready are more, each sequence gets as many as all can have, as in the
    step before: a batch would end with those to whom the others leave none.

    Attributes:
        left: drafts.
    """

    def __init__(self) -> None:
        self.left = 0
        # Of that step, sequences whose drafts stood ready, and those drafts.
        self._rows = self._ready = 0
        self._share: int | None = None

    def begin(self, left: int) -> None:
        """Plan a step that has room for so many."""
        scarce = 0 < left < self._ready
        self._share = max(1, left // self._rows) if scarce else None
        self.left = left
        self._rows = self._ready = 0

    def take(self, ready: int, most: int) -> int:
        """How many of its drafts that stand ready a sequence gets, at most ``most``."""
        self._rows += 1
        self._ready += ready
        if self._share is not None:
            most = min(most, self._share)
        drafts = max(0, min(ready, self.left, most))
        self.left -= drafts
        return drafts
