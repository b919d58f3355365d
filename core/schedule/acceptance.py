"""How often a sequence's drafts are accepted, as far as its recent rows tell."""

from __future__ import annotations

import math

__all__ = ("Acceptance",)

# What one more row leaves of the weight of those before it, of one sequence.
_MEMORY = 0.95
# Drafts' worth of trust in what other sequences have shown.
_TRUST = 4.0
# Draws without drafts before a sequence that gave them up tries one again, at first and at most.
_FIRST_PAUSE = 8
_LAST_PAUSE = 512
# What a pause leaves of the evidence for it.
_FADING = 0.5


class Acceptance:
    """Drafts tried and accepted, old ones counting less; a draft counts as tried once those before
    it were accepted.

    Attributes:
        pause: draws still to come before drafts are tried again.

    Args:
        memory: what one more row leaves of the weight of those before it.
    """

    __slots__ = ("_accepted", "_memory", "_next_pause", "_tried", "pause")

    def __init__(self, memory: float = _MEMORY) -> None:
        self._memory = memory
        self._tried = 0.0
        self._accepted = 0.0
        self._next_pause = _FIRST_PAUSE
        self.pause = 0

    def learn(self, drafts: int, accepted: int) -> None:
        """Take in a row with this many drafts; one that was right ends long pauses."""
        self._tried = self._tried * self._memory + min(drafts, accepted + 1)
        self._accepted = self._accepted * self._memory + accepted
        if accepted:
            self._next_pause = _FIRST_PAUSE

    def rate(self, prior: float = 0.0, trust: float = _TRUST) -> float:
        """The probability that a draft is accepted once those before it are.

        Args:
            prior: what to believe without evidence.
            trust: drafts' worth of evidence that it counts as.
        """
        return (self._accepted + prior * trust) / max(self._tried + trust, 1e-9)

    def likely(self, prior: float) -> float:
        """What others have shown, unless own evidence is a standard deviation away from it.

        Else who has had luck would draft more than others and who had none would stay behind them.
        """
        rate = self.rate(prior)
        doubt = math.sqrt(rate * (1 - rate) / (self._tried + _TRUST))
        return min(max(prior, rate - doubt), rate + doubt)

    def rest(self) -> None:
        """Drafts have lost: try none for a while, and for twice as long if they lose again.

        What was known fades meanwhile, so that others' drafts say whether to try again.
        """
        self._tried *= _FADING
        self._accepted *= _FADING
        self.pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LAST_PAUSE)
