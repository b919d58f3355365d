"""How many tokens to draft for whom: as many as make tokens come fastest, by what was measured.

Drafts make a step longer and let it emit more. With r the rate at which a sequence's drafts are
accepted, k drafts give 1 + r + ... + r^k tokens a step on average; what steps with k drafts a row
take is measured as they run, for each size of batch. The best k maximises tokens over time, and is
0 where drafting loses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from statistics import median

from ..cache.manager import CacheManager
from ..contracts.scheduler import SchedulerSettings
from ..sequence import Sequence
from ..step import Delta, Row
from .acceptance import Acceptance

__all__ = ("Drafting",)

# Believed of a speculator nobody has seen at work.
_FIRST_RATE = 0.7
_FIRST_TRUST = 8.0
# What one more row, of any sequence, leaves of the weight of those before it.
_OVERALL_MEMORY = 0.995
# Relative cost of one draft a row, believed until a step with drafts was measured.
_FIRST_COST = 0.05
# Durations kept of one kind of step; their median counts, once there are a few, and while the last
# of them is not long ago: what was slow once would never be tried again.
_KEPT = 7
_BELIEVED = 3
_STALE = 300
# A step counts as at most this many medians long: the machine did something else meanwhile.
_HICCUP = 2.0
# Steps with drafts after which they must have paid; and without, before another trial, at first,
# which is enough to see whether the machine has become slower, and at most.
_TRIAL = 12
_FIRST_PAUSE = 4
_LONGEST_PAUSE = 600
# Plain steps to measure before drafts are believed to pay, and after how many steps again.
_PLAIN = 3
_PLAIN_AGAIN = 1000
# A row of drafts must promise this much more than a plain one, and have kept it in a trial.
_MARGIN = 1.02
# Where drafts lose, a few sequences at once try one again after so many steps: a step with drafts
# costs the most before anybody drafts, when prompts are still unknown to a draft model.
_TRY_AGAIN = 64
_TRIES = 4


class Drafting:
    """Chooses the number of drafts, row by row, and learns from every step.

    Attributes:
        most: drafts of a row; 0 where nothing proposes any.
        rows: that verified drafts.
        tried: drafts verified.
        accepted_at: of these, accepted, by position in their row.

    Args:
        settings: limits.
        cache: drafts take blocks of it, too.
        clock: seconds, monotonic.
    """

    def __init__(
        self, settings: SchedulerSettings, cache: CacheManager, clock: Callable[[], float]
    ) -> None:
        self.most = settings.max_drafts
        self.rows = 0
        self.tried = 0
        self.accepted_at = [0] * self.most
        self._settings = settings
        self._cache = cache
        self._clock = clock
        self._overall = Acceptance(_OVERALL_MEMORY)
        self._costs: dict[int, _Costs] = {}
        self._now = _Costs()
        self._updated: float | None = None
        # Draws and tokens, and blocks, that drafts may take of the step that is planned.
        self._spare = 0
        self._kept_blocks = 0

    def begin(self, running: int, waiting: int, budget: int) -> None:
        """Plan a step: drafts may take what no sequence needs for its next token.

        Args:
            running: sequences.
            waiting: sequences that may be admitted.
            budget: tokens.
        """
        if not self.most:
            return
        needed = running + min(waiting, self._settings.max_num_seqs - running)
        self._spare = min(self._settings.max_draws, budget) - needed
        self._kept_blocks = running
        self._now = self._costs.setdefault(needed.bit_length(), _Costs())
        self._now.begin()

    def take(self, seq: Sequence, end: int, most: int) -> int:
        """How many of a sequence's drafts are verified behind its first ``end`` tokens."""
        if not seq.num_ready:
            return 0
        drafts = self._room(seq, end, min(seq.num_ready, self._spare, most))
        self._spare -= drafts
        return drafts

    def propose(self, seq: Sequence, end: int) -> int:
        """Drafts to propose after a row that ends with so many tokens computed."""
        wanted = 0 if seq.quarantined else self._choose(seq)
        return self._room(seq, end + 1, wanted) if wanted else 0

    def learn(self, seq: Sequence, row: Row, delta: Delta) -> None:
        """Take in what a row has given; filling where no draft was proposed has its cost, too."""
        if not row.drafts:
            return
        accepted = delta.num_accepted
        self.rows += 1
        self.tried += delta.num_drafts
        for position in range(accepted):
            self.accepted_at[position] += 1
        seq.drafting.learn(row.drafts, accepted)
        self._overall.learn(row.drafts, accepted)

    def measure(self, rows: Many[Row], tokens: int, *, last: bool) -> None:
        """A step has ended; its duration is the time since the one before did.

        Args:
            rows: of the step.
            tokens: that it has given.
            last: whether no step follows at once, so that the next interval means nothing.
        """
        if not self.most or not self._settings.adaptive:
            return
        now = self._clock()
        before, self._updated = self._updated, None if last else now
        if before is None or any(row.count > 1 + row.drafts for row in rows):
            return
        costs = self._costs.get(len(rows).bit_length())
        if costs is not None:
            # Few who try a draft do not show what drafts of all would take.
            drafts = round(sum(row.drafts for row in rows) / len(rows))
            speculates = any(row.drafts or row.propose for row in rows)
            costs.add(drafts, (now - before) / len(rows), tokens / len(rows), speculates)

    def _room(self, seq: Sequence, end: int, drafts: int) -> int:
        """The last token a limit allows is never computed, and nobody is preempted for a draft."""
        blocks = max(0, self._cache.pool.num_free - self._kept_blocks) + len(seq.blocks)
        room = min(seq.token_limit - 1, blocks * self._cache.block_size) - end
        return max(0, min(drafts, room))

    def _choose(self, seq: Sequence) -> int:
        if not self._settings.adaptive:
            return self.most
        acceptance = seq.drafting
        if acceptance.pause > 0:
            acceptance.pause -= 1
            return 0
        if self._now.plain:
            return 0
        rate = acceptance.rate(self._overall.rate(_FIRST_RATE, _FIRST_TRUST))
        length = self._now.best(rate, self.most)
        if length:
            acceptance.win()
            return length
        # One try before the pause tells whether anything has changed.
        acceptance.rest()
        return int(self._now.tries())


class _Costs:
    """What steps of one size take, by drafts a row, and whether drafting has paid in them.

    Attributes:
        plain: whether nobody drafts in the step that is planned.
    """

    def __init__(self) -> None:
        self.plain = False
        self._steps = 0
        self._seconds: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._tried_at = -_TRY_AGAIN
        self._tries = 0
        # Step of the last duration, by drafts a row.
        self._measured: dict[int, int] = {}
        self._since_plain = 0
        # Tokens and seconds a row of the last steps with drafts, or with proposals of any.
        self._gains: deque[tuple[float, float]] = deque(maxlen=_TRIAL)
        self._pause = 0
        self._next_pause = _FIRST_PAUSE

    def begin(self) -> None:
        """A step is planned."""
        self._steps += 1
        missing = len(self._seconds.get(0, ())) < _PLAIN
        self.plain = self._pause > 0 or missing or self._since_plain >= _PLAIN_AGAIN
        self._pause = max(0, self._pause - 1)

    def tries(self) -> bool:
        """Whether a sequence for which drafts lose may try one in this step."""
        if self._tried_at != self._steps:
            if self._steps - self._tried_at < _TRY_AGAIN:
                return False
            self._tried_at, self._tries = self._steps, 0
        self._tries += 1
        return self._tries <= _TRIES

    def add(self, drafts: int, seconds: float, tokens: float, speculates: bool) -> None:
        """Take in a step's seconds and tokens a row.

        A step that looked for drafts and found none is no plain one, but part of the price.
        """
        if not speculates or drafts:
            kept = self._seconds.setdefault(drafts, deque(maxlen=_KEPT))
            kept.append(seconds)
            self._measured[drafts] = self._steps
            if len(kept) >= _BELIEVED:
                self._medians[drafts] = median(kept)
        if not speculates:
            self._since_plain = 0
            return
        self._since_plain += 1
        self._gains.append((tokens, seconds))
        plain = self._medians.get(0)
        if plain is None or len(self._gains) < _TRIAL:
            return
        longest = _HICCUP * median(gain[1] for gain in self._gains)
        taken = sum(min(gain[1], longest) for gain in self._gains)
        if sum(gain[0] for gain in self._gains) * plain < _MARGIN * taken:
            self._gains.clear()
            self._seconds[0].clear()
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        else:
            self._next_pause = _FIRST_PAUSE

    def best(self, rate: float, most: int) -> int:
        """The number of drafts that makes tokens come fastest."""
        chosen, fastest, tokens, gain = 0, _MARGIN, 1.0, 1.0
        for drafts in range(1, most + 1):
            gain *= rate
            tokens += gain
            speed = tokens / self._relative(drafts)
            if speed > fastest:
                chosen, fastest = drafts, speed
        return chosen

    def _relative(self, drafts: int) -> float:
        """Cost of a step with so many drafts a row, a plain one's being 1."""
        plain = self._medians.get(0)
        if not plain:
            return 1 + _FIRST_COST * drafts
        oldest = self._steps - _STALE
        fresh = {
            length: cost
            for length, cost in self._medians.items()
            if length and self._measured[length] >= oldest
        }
        found = fresh.get(drafts)
        if found is not None:
            return found / plain
        below = max((d for d in fresh if d < drafts), default=0)
        above = min((d for d in fresh if d > drafts), default=0)
        low = fresh[below] / plain if below else 1.0
        if above:
            return low + (fresh[above] / plain - low) * (drafts - below) / (above - below)
        if below:
            return 1 + (low - 1) * drafts / below
        return 1 + _FIRST_COST * drafts
