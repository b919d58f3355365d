"""Steps without drafts that go by without a look at anything."""

from __future__ import annotations

__all__ = ("Nap",)


class Nap:
    """So many steps of as many sequences, measured together.

    Attributes:
        left: steps that are yet to be planned.
        rows: sequences.
        ended: steps that have ended and were not measured yet; negative while the first ones,
            which are not measured, have not.
    """

    def __init__(self) -> None:
        self.left = self.rows = self.ended = 0
        self._steps = 0

    def begin(self, steps: int, rows: int, *, unmeasured: int) -> None:
        """Let the next steps go by, the first of them unmeasured."""
        self.left = self._steps = steps
        self.rows = rows
        self.ended = -unmeasured

    @property
    def over(self) -> bool:
        """Whether there was one, and the step that is planned is none of it."""
        return self._steps > 0

    def end(self) -> int:
        """Steps that have gone by."""
        passed = self._steps - self.left
        self.left = self.ended = self._steps = 0
        return passed

    def measured(self) -> int:
        """Steps that are measured together now, the one that has just ended among them."""
        together, self.ended = max(self.ended, 0) + 1, 0
        return together
