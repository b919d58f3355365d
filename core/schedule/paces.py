"""How evenly drafts serve the sequences of a batch.

A step with drafts takes longer for everybody. Where some sequences get many tokens from it and
others none, tokens a second may grow while most requests take longer, and with them the batch. What
a token takes the sequences on average is what their tokens a step say by the harmonic mean.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("Paces",)

# Steps of a sequence that are remembered, and for how many the mean of all counts beside them: by
# chance alone, sequences that are equally lucky get different tokens from a few steps.
_MEMORY = 24.0
_COMMON = 2.0


class Paces:
    """Tokens a step of each slot's sequence, in steps with drafts and beside them.

    Args:
        max_slots: sequences that run at once.
    """

    def __init__(self, max_slots: int) -> None:
        # By slot, old steps counting less.
        self._tokens = [0.0] * max_slots
        self._steps = [0.0] * max_slots

    def forget(self, slots: Iterable[int]) -> None:
        """Other sequences have got these slots."""
        for slot in slots:
            self._tokens[slot] = self._steps[slot] = 0.0

    def gained(self, slots: list[int], drawn: list[int], together: int = 1) -> float:
        """Take in a step: by how much what its sequences have got has grown, in tokens a row.

        Less than none where it turns out that what the steps before have given went to a few.

        Args:
            slots: of the step's rows.
            drawn: tokens of each.
            together: steps in which they were drawn.
        """
        if len(slots) == 1:
            return float(drawn[0])
        made, steps = self._tokens, self._steps
        tokens_before, steps_before = [], []
        for slot, more in zip(slots, drawn, strict=True):
            own, its = made[slot], steps[slot]
            if its > _MEMORY:
                own, its = own * (_MEMORY / its), _MEMORY
            tokens_before.append(own)
            steps_before.append(its)
            made[slot], steps[slot] = own + more, its + together
        now = _together([made[slot] for slot in slots], [steps[slot] for slot in slots])
        return now - _together(tokens_before, steps_before)


def _together(tokens: list[float], steps: list[float]) -> float:
    """Tokens a row: the steps of each, times the harmonic mean of paces."""
    made, taken = sum(tokens), sum(steps)
    if not made:
        return 0.0
    common = _COMMON * made / taken
    times = [(_COMMON + its) / (common + own) for its, own in zip(steps, tokens, strict=True)]
    return taken / sum(times)
