"""Steps with drafts that are planned alike, and measured together."""

from __future__ import annotations

import math

from ..step import Outcome, Plan

__all__ = ("Stretch",)

# Steps that are planned as the last one was where drafts pay: looking at every sequence takes the
# host as long as a small model's plain step.
_STEPS = 16
# Plain steps' time that one row has lost since steps last gave what they took, after which all are
# looked at again; or what so many steps lose that give a token a row.
_MOST_LOST = 2.0
_MOST_VAIN = 2.5
# Times what steps take that they must give to pay whatever showing them takes, of a plain step.
_SURE = 1.5


class Stretch:
    """Steps in which every sequence drafts as many tokens as before, if it finds any.

    Those of as many sequences are measured together.

    Attributes:
        left: steps that are yet to be planned.
        worth: tokens of a row that a step must give.
        doubtful: whether drafts may lose beside steps that nobody is shown.
        running: sequences in the step that was planned last; 0 where there is no stretch.
        rows: of the steps that are measured together.
        ended: how many of those have.
        until: when the last of them did.
        drafts: verified in them.
        drawn: tokens by slot.
        cold: whether one was; see ``Outcome``.
    """

    def __init__(self) -> None:
        self.end()

    def begin(self, running: int, tokens: float, cost: float) -> None:
        """Plan the next steps like the last one.

        Args:
            running: sequences.
            tokens: that a row is expected to get from one.
            cost: of one, in plain steps.
        """
        self.left, self.running, self.worth = _STEPS, running, max(cost, 1.0)
        self.doubtful = tokens < _SURE * cost

    def end(self) -> None:
        """Plan them one by one again."""
        self.left = self.running = 0
        self.worth, self._lost = 1.0, 0.0
        self.doubtful = False
        self.measured()

    def measured(self) -> None:
        """What has ended was taken in."""
        self.rows = self.ended = self.drafts = 0
        self.until = 0.0
        self.drawn: dict[int, int] = {}
        self.cold = False

    def take_in(self, plan: Plan, outcome: Outcome, now: float) -> None:
        """A step with drafts has ended, of as many rows as those before it if there are any."""
        drafts, given, drawn = 0, 0, self.drawn
        for row, tokens in zip(plan.rows, outcome.tokens, strict=True):
            count = len(tokens)
            drawn[row.slot] = drawn.get(row.slot, 0) + count
            given += count
            drafts += row.drafts
        self.rows, self.until = len(plan.rows), now
        self.ended += 1
        self.drafts += drafts
        self.cold = self.cold or outcome.cold
        self._lost = max(0.0, self._lost + self.worth - given / self.rows)
        most = min(_MOST_VAIN * (self.worth - 1), _MOST_LOST)
        # Chance takes the less from a step, the more rows there are.
        if self._lost > most / math.sqrt(self.rows):
            self.left = 0
