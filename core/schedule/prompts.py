"""How much of prompts a step takes."""

from __future__ import annotations

from collections.abc import Iterable

from ..contracts.scheduler import SchedulerSettings
from ..sequence import Sequence

__all__ = ("PromptShare", "chunk")

# Beside sequences that decode and are read as they come, prompts fill a step up to a multiple of a
# part of the budget, and are given no fewer tokens than this. Everybody who reads waits for the
# whole step, which is therefore the shorter the more they are; the device's products are at their
# best over round numbers of tokens. Up to so many readers, so many parts; and beside more.
_FEW_READERS, _FEW_PARTS, _PARTS = 16, 2, 4
_FEWEST_PROMPT_TOKENS = 512
# A long prompt's chunk that another follows ends at a multiple of this where at most a quarter of
# what a step has for prompts waits for that: attention then meets few lengths, and has nothing to
# fill up.
_ROUND_TOKENS = 1024
_LONG_TOKENS = 4096


class PromptShare:
    """Tokens of a step that are left for prompts.

    They are counted when the first prompt asks: a step of decodes alone has none.

    Args:
        running: those that may run in the step.
        settings: the scheduler's.
    """

    def __init__(self, running: Iterable[Sequence], settings: SchedulerSettings) -> None:
        self._running = running
        self._settings = settings
        self._left: int | None = None
        self._spare = 0

    def left(self, budget: int) -> tuple[int, int]:
        """Of a step that has so many tokens left: how many for prompts, and see ``chunk``."""
        if self._left is None:
            self._left = min(_most(self._running, self._settings), budget)
            self._spare = self._left // 4
        return min(self._left, budget), self._spare

    def take(self, count: int) -> None:
        """A prompt has so many of what was left."""
        self._left = (self._left or 0) - count


def _most(running: Iterable[Sequence], settings: SchedulerSettings) -> int:
    """Tokens of a step that may be of prompts."""
    budget = settings.max_num_batched_tokens
    decoding = [seq for seq in running if seq.num_known - seq.num_computed == 1]
    readers = sum(seq.request.streamed for seq in decoding)
    if not readers or not settings.chunked_prefill:
        return budget
    parts = _FEW_PARTS if readers <= _FEW_READERS else _PARTS
    part, rows = max(1, budget // parts), len(decoding)
    return min(budget, -(-(rows + _FEWEST_PROMPT_TOKENS) // part) * part - rows)


def chunk(seq: Sequence, budget: int, spare: int) -> int:
    """Tokens that a sequence computes next, of at most so many; it may leave ``spare`` of them."""
    wanted = seq.num_wanted
    if wanted <= budget or seq.num_known < _LONG_TOKENS:
        return min(wanted, budget)
    rest = (seq.num_computed + budget) % _ROUND_TOKENS
    return max(budget - rest, 0) if rest <= spare else budget
