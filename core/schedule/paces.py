"""How evenly drafts serve the sequences of a batch.

A step with drafts takes longer for everybody. Where some sequences get many tokens from it and
others none, tokens a second may grow while most requests take longer, and with them the batch. What
a token takes the sequences on average is what their tokens a step say by the harmonic mean.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..step import Row

__all__ = ("Paces",)

# Steps of a sequence that are remembered, and for how many the mean of all counts beside them: by
# chance alone, sequences that are equally lucky get different tokens from a few steps.
_MEMORY = 24.0
_COMMON = 2.0


class Paces:
    """Tokens a step of each slot's sequence, in steps with drafts and beside them."""

    def __init__(self) -> None:
        # Tokens and steps by slot.
        self._seen: dict[int, tuple[float, float]] = {}

    def forget(self, slots: Iterable[int]) -> None:
        """Other sequences have got these slots."""
        for slot in slots:
            self._seen.pop(slot, None)

    def gained(self, rows: list[Row], tokens: list[list[int]]) -> float:
        """Take in a step: what it has given, in tokens a row.

        Args:
            rows: of the step.
            tokens: drawn, row by row.
        """
        mean = sum(map(len, tokens)) / len(rows)
        if len(rows) == 1:
            return mean
        seen = [self._add(row.slot, len(drawn)) for row, drawn in zip(rows, tokens, strict=True)]
        common = sum(made for made, _ in seen) / sum(steps for _, steps in seen)
        if not common:
            return mean
        paces = [(_COMMON * common + made) / (_COMMON + steps) for made, steps in seen]
        return mean * len(paces) ** 2 / (sum(paces) * sum(1 / pace for pace in paces))

    def _add(self, slot: int, tokens: int) -> tuple[float, float]:
        made, steps = self._seen.get(slot, (0.0, 0.0))
        kept = min(1.0, _MEMORY / steps) if steps else 0.0
        found = self._seen[slot] = kept * made + tokens, kept * steps + 1
        return found
