"""How often drafts are accepted, as far as recent rows tell."""

from __future__ import annotations

import math

__all__ = ("Acceptance",)

# Drafts' worth of evidence that is remembered, and of trust in what others have shown.
_MEMORY = 20.0
_TRUST = 0.5
# What a draw without drafts leaves of the evidence.
_FADING = 0.97
_LEAST = 0.1
# Draws before drafts that lose are tried again, at first and at most.
_FIRST_PAUSE = 8
_LAST_PAUSE = 512
# Searches without a draft after which one more draw goes by before the next, and draws at most.
_PATIENCE = 3
_MOST_SKIPPED = 3


class Acceptance:
    """Drafts tried and accepted, old ones counting less; a draft counts as tried once those before
    it were accepted.

    Args:
        memory: drafts tried that count.
    """

    __slots__ = ("_accepted", "_empty", "_memory", "_next_pause", "_pause", "_skipped", "_tried")

    def __init__(self, memory: float = _MEMORY) -> None:
        self._memory = memory
        self._tried = 0.0
        self._accepted = 0.0
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        self._empty = 0
        self._skipped = 0

    def learn(self, drafts: int, accepted: int) -> None:
        """Take in a row with this many drafts; one that was right ends long pauses."""
        self.add(min(drafts, accepted + 1), accepted)
        if accepted:
            self._next_pause = _FIRST_PAUSE

    def add(self, tried: int, accepted: int) -> None:
        """Take in drafts, of one row or many."""
        if self._tried > self._memory:
            self._scale(self._memory / self._tried)
        self._tried += tried
        self._accepted += accepted

    def rate(self, prior: float = 0.0, trust: float = _TRUST) -> float:
        """The probability that a draft is accepted once those before it are.

        Args:
            prior: what to believe without evidence.
            trust: drafts' worth of evidence that it counts as.
        """
        return (self._accepted + prior * trust) / max(self._tried + trust, 1e-9)

    def likely(self, prior: float, doubt: float) -> float:
        """What others have shown, unless own evidence is far from it.

        Args:
            prior: the rate that others have shown.
            doubt: standard deviations by which own evidence may miss it before it counts.
        """
        if not self._tried:
            return prior
        rate = self.rate(prior)
        room = doubt * math.sqrt(rate * (1 - rate) / (self._tried + _TRUST))
        return min(max(prior, rate - room), rate + room)

    def seeks(self) -> bool:
        """Whether to look for drafts; who often found none does so more rarely."""
        if self._skipped:
            self._skipped -= 1
            return False
        return True

    def sought(self, *, found: bool) -> None:
        """Drafts were looked for."""
        self._empty = 0 if found else self._empty + 1
        self._skipped = min(self._empty // _PATIENCE, _MOST_SKIPPED)

    def rest(self, draws: int = 1) -> None:
        """Draws go without drafts: what was known fades, so that it may be seen otherwise."""
        if self._tried:
            self._scale(_FADING**draws if self._tried > _LEAST else 0.0)
        self._pause = max(0, self._pause - draws)

    def may_try(self) -> bool:
        """Whether the last draft that was tried although it loses is long ago."""
        return not self._pause

    def tries(self) -> None:
        """A draft is tried although it loses; the next one waits twice as long if it is wrong."""
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LAST_PAUSE)

    def _scale(self, factor: float) -> None:
        self._tried *= factor
        self._accepted *= factor
