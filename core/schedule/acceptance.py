"""How often drafts are accepted, as far as recent rows tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ("Acceptance", "Judged", "Rates", "judge", "pooled")

# Drafts' worth of evidence that is remembered, and of trust in what others have shown.
_MEMORY = 20.0
_TRUST = 0.5
# Rows that are remembered, for each draft that is.
_ROWS = 0.7
# What a draw without drafts leaves of the evidence.
_FADING = 0.985
_LEAST = 0.1
# Draws before drafts that lose are tried again, at first and at most.
_FIRST_PAUSE = 8
_LAST_PAUSE = 512
# Draws at most that go by behind a search that has found nothing: one behind the first, and twice
# as many behind each that follows.
_MOST_SKIPPED = 4
# Rates between 0 and 1 that are told apart.
_DISTINCT = 64


class Rates(NamedTuple):
    """How likely a chain's drafts are right.

    Text that stood there before is right for many tokens or for none, so the first draft says much
    of those behind it, which one rate for all would not.

    Attributes:
        first: probability that the first one is accepted.
        following: that one is, those before it being accepted.
    """

    first: float
    following: float

    def tokens(self, drafts: int) -> float:
        """Of a row with so many drafts, on average."""
        rate = self.following
        chain = float(drafts) if rate == 1 else (1 - rate**drafts) / (1 - rate)
        return 1 + self.first * chain

    def key(self) -> tuple[int, int]:
        """Equal for rates that are nearly so."""
        return round(self.first * _DISTINCT), round(self.following * _DISTINCT)


class Judged(NamedTuple):
    """Drafts that counted, of one row or of many: one does if those before it were accepted.

    Attributes:
        rows: with drafts, each of which has a first one.
        right: first ones accepted.
        tried: others that counted.
        accepted: of those.
    """

    rows: int = 0
    right: int = 0
    tried: int = 0
    accepted: int = 0


@functools.cache
def judge(drafts: int, accepted: int) -> Judged:
    """Those of a row with so many drafts, of which so many were accepted."""
    return Judged(1, accepted > 0, min(drafts - 1, accepted), max(accepted - 1, 0))


def pooled(judged: Iterable[Judged]) -> Judged:
    """Those of all."""
    rows = right = tried = accepted = 0
    for its_rows, its_right, its_tried, its_accepted in judged:
        rows += its_rows
        right += its_right
        tried += its_tried
        accepted += its_accepted
    return Judged(rows, right, tried, accepted)


class _Evidence:
    """Of one rate: drafts tried and accepted, old ones counting less."""

    __slots__ = ("_accepted", "_memory", "_tried")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._tried = 0.0
        self._accepted = 0.0

    @property
    def empty(self) -> bool:
        return not self._tried

    def add(self, tried: int, accepted: int, kept: float = 1.0) -> None:
        """Take in drafts, once what was known has shrunk to the share of it that is kept."""
        known, right = self._tried * kept, self._accepted * kept
        if known > self._memory:
            fits = self._memory / known
            known, right = known * fits, right * fits
        self._tried, self._accepted = known + tried, right + accepted

    def rate(self, prior: float, trust: float) -> float:
        return (self._accepted + prior * trust) / max(self._tried + trust, 1e-9)

    def beside(self, other: float) -> float:
        return self.rate(other, max(self._memory - self._tried, 0.0))

    def likely(self, prior: float, doubt: float) -> float:
        if not self._tried:
            return prior
        rate = self.rate(prior, _TRUST)
        room = doubt * math.sqrt(rate * (1 - rate) / (self._tried + _TRUST))
        if prior < rate - room:
            return rate - room
        return rate + room if prior > rate + room else prior

    def fade(self, draws: int, fading: float) -> None:
        if self._tried:
            kept = fading**draws if self._tried > _LEAST else 0.0
            self._tried *= kept
            self._accepted *= kept


class Acceptance:
    """What the drafts of one sequence, or of all, have shown.

    Attributes:
        length: of the sequence's drafts, as was chosen last; 0 for none.

    Args:
        memory: drafts tried that count.
    """

    __slots__ = (
        "_first",
        "_following",
        "_news",
        "_next_pause",
        "_next_skip",
        "_pause",
        "_rows",
        "_skipped",
        "length",
    )

    def __init__(self, memory: float = _MEMORY) -> None:
        self._rows = _ROWS * memory
        self._first = _Evidence(self._rows)
        self._following = _Evidence(memory)
        # Taken in when somebody asks: hundreds are learned between two questions.
        self._news: list[Judged] = []
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        self._next_skip = 0
        self._skipped = 0
        self.length = 0

    @property
    def unknown(self) -> bool:
        """Whether no drafts have shown anything, or so long ago that it is forgotten."""
        return not self._news and self._first.empty

    def learn(self, judged: Judged) -> None:
        """Take in drafts; one that was right ends long pauses."""
        self._news.append(judged)

    def _take_in(self) -> None:
        if not self._news:
            return
        rows, right, tried, accepted = pooled(self._news)
        self._news.clear()
        self._first.add(rows, right)
        # Rows pass by for those behind the first whether or not there was anything to see.
        self._following.add(tried, accepted, 1 / (1 + rows / self._rows))
        if right:
            self._next_pause = _FIRST_PAUSE

    def rates(self, prior: float, trust: float = _TRUST) -> Rates:
        """The shares that were accepted; the second like the first where nothing else was shown.

        Args:
            prior: the first, to be believed without evidence.
            trust: drafts' worth of evidence that this counts as.
        """
        self._take_in()
        first = self._first.rate(prior, trust)
        return Rates(first, self._following.rate(first, trust))

    def beside(self, others: Rates) -> Rates:
        """The shares that were accepted; what others have shown takes the place of what is not
        remembered."""
        self._take_in()
        return Rates(self._first.beside(others.first), self._following.beside(others.following))

    def likely(self, prior: Rates, doubt: float) -> Rates:
        """What others have shown, unless own evidence is far from it.

        Args:
            prior: the rates that others have shown.
            doubt: standard deviations by which own evidence may miss them before it counts.
        """
        self._take_in()
        first = self._first.likely(prior.first, doubt)
        following = self._following.likely(prior.following, doubt)
        # As most are, and making a pair takes as long as finding that out.
        if first == prior.first and following == prior.following:
            return prior
        return Rates(first, following)

    def skips(self, draws: int = 1) -> int:
        """How many draws, this one among them, go by before drafts are looked for again: who has
        found none looks more rarely.

        Args:
            draws: since that was last asked.
        """
        if not self._skipped:
            return 0
        skipped = max(self._skipped - draws + 1, 0)
        self._skipped = max(skipped - 1, 0)
        return skipped

    def sought(self, *, found: bool) -> None:
        """Drafts were looked for."""
        self._next_skip = 0 if found else min(max(2 * self._next_skip, 1), _MOST_SKIPPED)
        self._skipped = self._next_skip

    def rest(self, draws: int = 1, fading: float = _FADING) -> None:
        """Draws go without drafts: what was known fades, so that it may be seen otherwise.

        Args:
            draws: how many.
            fading: what each leaves of it.
        """
        self._take_in()
        self._first.fade(draws, fading)
        self._following.fade(draws, fading)
        self._pause = max(0, self._pause - draws)

    def may_try(self) -> bool:
        """Whether the last draft that was tried although it loses is long ago."""
        return not self._pause

    def tries(self) -> None:
        """A draft is tried although it loses; the next one waits twice as long if it is wrong."""
        self._take_in()
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LAST_PAUSE)
