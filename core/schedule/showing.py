"""Which steps are shown to a speculator that drafts from hidden states.

Seeing a step costs time, and nobody needs what is seen where nobody drafts. But a sequence can be
drafted for only if all its tokens were shown, so whether drafts have come to pay is found out on
sequences that begin while steps are shown.
"""

from __future__ import annotations

from ..sequence import Sequence

__all__ = ("Showing",)

# Steps in which sequences were there to be drafted for, and no drafts promised to pay, after which
# showing rests.
_PATIENCE = 256
# Steps shown after which it must be known what they would take unseen, for how many of them one
# counts in which drafts lose even beside steps that are shown, and those of a rest that is to find
# out.
_UNPRICED = 128
_LOSING = 8
_LOOK = 32
# For how many times as many steps it rests as were shown in vain: at first, since the next requests
# may be of another kind, and at most.
_FIRST_REST = 2
_LONGEST_REST = 32


class Showing:
    """Shows all steps until that has long been in vain, and then none for much longer.

    Attributes:
        shown: whether the step that is planned is shown.
        rests: whether steps may go unseen at all.
    """

    def __init__(self, *, rests: bool) -> None:
        self.shown = True
        self.rests = rests
        # Counts the times that showing has begun.
        self._watch = 0
        # Steps shown since drafts last promised to pay, and those in which there was somebody to
        # draft for; steps that are to go unseen.
        self._vain = 0
        self._idle = 0
        self._left = 0
        # Towards a price, and what a step adds.
        self._unpriced = self._pricing = 0
        self._times = _FIRST_REST
        # Whether drafts have ever paid.
        self._paid = False

    def begin(self, *, idle: bool, owed: int, unpriced: bool, waiting: bool) -> None:
        """Plan a step.

        Args:
            idle: whether sequences were there to be drafted for, and none wants drafts.
            owed: steps that must go unseen for what showing and drafting have lost, where nobody
                wants drafts.
            unpriced: whether nobody knows what such a step would take unseen.
            waiting: whether sequences may be admitted: only those can be drafted for after a rest.
        """
        if not self.rests:
            return
        if not self.shown:
            self._left -= 1
            if self._left > 0 or not waiting:
                return
            self.shown = True
            self._watch += 1
            self._vain = self._idle = 0
        self._pricing = unpriced * (_LOSING if idle else 1)
        self._unpriced += self._pricing
        if self._unpriced > _UNPRICED:
            self.shown, self._left, self._unpriced = False, _LOOK, 0
            return
        self._idle += idle
        if (self._idle >= _PATIENCE and idle) or owed:
            self.shown = False
            self._left = max(self._times * self._vain, owed)
            self._times = min(2 * self._times, _LONGEST_REST)
            return
        self._vain += 1

    def pass_by(self, steps: int, *, idle: bool) -> None:
        """So many steps were planned like the last one, while nobody was waiting; see ``begin``."""
        if not self.shown:
            self._left -= steps
            return
        self._vain += steps
        self._idle += steps * idle
        self._unpriced += steps * self._pricing

    def promise(self) -> None:
        """Drafts promise to pay for somebody."""
        self._vain = self._idle = 0

    def pays(self) -> None:
        """Drafts have paid."""
        self._times = _FIRST_REST
        self._paid = True

    def wait(self, steps: int) -> None:
        """Nobody may draft for so many steps: if drafts have never paid, they go unseen."""
        if self.rests and self.shown and steps and not self._paid:
            self.shown, self._left = False, steps

    def enter(self, seq: Sequence) -> None:
        """A sequence gets its slot in the step that is planned, and begins from nothing.

        Or from a cached prefix, which may have been computed unseen. To know that, every block
        would have to be marked; such a sequence's drafts may be poor, which costs time and never a
        result.
        """
        seq.watch = self._watch

    def sees(self, seq: Sequence) -> bool:
        """Whether all steps since it got its slot were shown, in a step that is shown."""
        return seq.watch == self._watch
