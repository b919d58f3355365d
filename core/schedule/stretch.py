"""Steps with drafts that are planned alike, and measured together."""

from __future__ import annotations

from ..step import Outcome, Plan

__all__ = ("FEWEST_TOGETHER", "Stretch")

# Steps that are planned as the last one was where drafts pay: looking at every sequence takes the
# host as long as a small model's plain step.
_STEPS = 8
# Of those, in a row, in which no draft was right, after which they are looked at again.
_VAIN = 3
FEWEST_TOGETHER = 4
"""Steps that are measured together where somebody comes or leaves, at least."""


class Stretch:
    """Steps in which every sequence drafts as many tokens as before, if it finds any.

    Attributes:
        left: steps that are yet to be planned.
        rows: sequences; 0 where there is no stretch.
        ended: steps that have.
        drafts: verified in those.
        drawn: tokens by slot.
        alike: whether drafts were verified in every one.
        cold: whether one was; see ``Outcome``.
    """

    def __init__(self) -> None:
        self.end()

    def begin(self, rows: int) -> None:
        """Plan the next steps like the last one."""
        self.left, self.rows = _STEPS, rows

    def end(self) -> None:
        """Plan them one by one again."""
        self.left = self.rows = self.ended = self.drafts = 0
        self.drawn: dict[int, int] = {}
        self.alike = True
        self.cold = False
        self._vain = 0

    def take_in(self, plan: Plan, outcome: Outcome) -> None:
        """A step has ended."""
        drafts, drawn = 0, self.drawn
        for row, tokens in zip(plan.rows, outcome.tokens, strict=True):
            drawn[row.slot] = drawn.get(row.slot, 0) + len(tokens)
            drafts += row.drafts
        self.ended += 1
        self.drafts += drafts
        self._vain = self._vain + 1 if sum(map(len, outcome.tokens)) <= len(plan.rows) else 0
        if self._vain == _VAIN:
            self.left = 0
        self.alike = self.alike and drafts > 0
        self.cold = self.cold or outcome.cold
