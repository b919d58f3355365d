"""How often a sequence's drafts are accepted, as far as its recent rows tell."""

from __future__ import annotations

__all__ = ("Acceptance",)

# What one more row leaves of the weight of those before it, of one sequence.
_MEMORY = 0.9
# Drafts' worth of trust in what other sequences have shown.
_TRUST = 3.0
# Draws without drafts before a sequence that gave them up tries one again, at first and at most.
_FIRST_PAUSE = 16
_LAST_PAUSE = 512


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
        """Take in a row with this many drafts."""
        self._tried = self._tried * self._memory + min(drafts, accepted + 1)
        self._accepted = self._accepted * self._memory + accepted

    def rate(self, prior: float = 0.0, trust: float = _TRUST) -> float:
        """The probability that a draft is accepted once those before it are.

        Args:
            prior: what to believe without evidence.
            trust: drafts' worth of evidence that it counts as.
        """
        return (self._accepted + prior * trust) / max(self._tried + trust, 1e-9)

    def rest(self) -> None:
        """Drafts have lost: try none for a while, and for twice as long if they lose again."""
        self.pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LAST_PAUSE)

    def win(self) -> None:
        """Drafts pay."""
        self._next_pause = _FIRST_PAUSE
