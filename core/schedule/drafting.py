"""How many tokens to draft for whom: as many as make tokens come fastest, by what was measured.

Drafts make a step longer and let it emit more. With r the rate at which a sequence's drafts are
accepted, k drafts give 1 + r + ... + r^k tokens a step on average; what steps with k drafts a row
take is measured as they run, for each size of batch. The best k maximises tokens over time, and is
0 where drafting loses.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median

from ..cache.manager import CacheManager
from ..contracts.scheduler import SchedulerSettings
from ..sequence import Sequence
from ..step import Delta, Plan, Row
from .acceptance import Acceptance
from .step_times import DraftCosts, PlainTimes

__all__ = ("Drafting",)

# Believed of a speculator nobody has seen at work.
_FIRST_RATE = 0.7
_FIRST_TRUST = 1.0
# Standard deviations by which a sequence's own evidence may miss what others have shown before it
# counts, for one alone and at most.
_DOUBT_ALONE = 0.5
_MOST_DOUBT = 2.0
# Doublings of one sequence that are many.
_MANY = 3
# Drafts of any sequence that count.
_OVERALL_MEMORY = 30.0
# A step counts as at most this many medians long, unless drafting began in it: the machine did
# something else meanwhile.
_HICCUP = 2.0
# Plain steps' time that drafts may lose before it is plain that they do not pay.
_MOST_LOST = 8.0
# Steps with drafts after which they must have paid; and without, before they may again, at first,
# which is enough to see whether the machine has become slower, and at most.
_WINDOW = 24
_FIRST_PAUSE = 4
_LONGEST_PAUSE = 600
# Steps with drafts after which plain ones are measured anew, at first, since an engine may have
# been slow in the beginning, and at most.
_DOUBTED = 32
_MORE_SURE = 8
# Of the time that plain steps were believed to take.
_FASTER = 0.9
_PLAIN_AGAIN = 1000
# Times plain steps' speed that drafts must have kept there, and must promise to a sequence
# alone; and what they must promise to many, whose batch ends with whoever has the least luck.
_MARGIN = 1.02
_PROMISE = 1.1
# Steps after which costs are looked at again, and whether drafting pays; and, where nobody drafts,
# after which it is asked again who would: asking takes longer than planning.
_LOOK_AGAIN = 4
# Where drafts lose, a few sequences at once try one every so many steps, or more seldom where
# that would take a greater share of the time. That goes into lengths that nobody knows as well,
# and is saved up to so many plain steps' time, with which an engine begins.
_TRIES = 4
_TRY_AGAIN = 8
_TRYING = 0.01
_MOST_TRYING = 1.0
# Rates between 0 and 1 that are told apart.
_RATES = 128
# Steps until the durations of a try are known.
_SHOWN = 3


class Drafting:
    """Chooses the number of drafts, row by row, and learns from every step.

    Attributes:
        most: drafts of a row; 0 where nothing proposes any.
        asks: whether anybody may draft in the step that is planned.
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
        self.asks = False
        self.rows = 0
        self.tried = 0
        self.accepted_at = [0] * self.most
        self._settings = settings
        self._cache = cache
        self._clock = clock
        self._overall = Acceptance(_OVERALL_MEMORY)
        self._plain = PlainTimes()
        self._payoffs: dict[int, _Payoff] = {}
        self._now = _Payoff()
        self._prior = _FIRST_RATE
        self._doubt = _DOUBT_ALONE
        self._updated: float | None = None
        # Steps to be measured that may show what it takes to begin drafting for a sequence. With
        # overlap the first was planned before: the host's part of a step is in the one before.
        self._beginning = 0
        # Drafts of the step that is taken in, of those that counted, and right ones among them.
        self._judged = 0
        self._right = 0
        # Sequences asked in the last step that asked, and those that wanted drafts; steps since it.
        self._asked = 0
        self._wanting = 0
        self._passed = 0
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
        self._passed += 1
        rests = self._asked > 0 and not self._wanting and self._settings.adaptive
        self.asks = not rests or self._passed >= _LOOK_AGAIN
        if self.asks:
            self._ask(running, waiting, budget)

    def _ask(self, running: int, waiting: int, budget: int) -> None:
        needed = running + min(waiting, self._settings.max_num_seqs - running)
        self._spare = min(self._settings.max_draws, budget) - needed
        self._kept_blocks = running
        payoff = self._payoffs.get(needed.bit_length())
        if payoff is None:
            payoff = self._payoffs[needed.bit_length()] = _Payoff()
        self._now = payoff
        self._prior = self._overall.rate(_FIRST_RATE, _FIRST_TRUST)
        # Among many, who has had luck would draft more and make the steps of the others longer.
        many = min(math.log2(max(running, 1)) / _MANY, 1.0)
        self._doubt = _DOUBT_ALONE + many * (_MOST_DOUBT - _DOUBT_ALONE)
        promise = _MARGIN + many * (_PROMISE - _MARGIN)
        if payoff.doubts():
            self._plain.forget(needed)
        unmeasured = self._plain.wanted(needed)
        payoff.begin(self._prior, self.most, promise, self._passed, unmeasured=unmeasured)
        # Plain steps are measured one after the other until they are known.
        self._asked, self._wanting = 0, int(unmeasured)
        self._passed = 0

    def take(self, seq: Sequence, end: int, most: int) -> int:
        """How many of a sequence's drafts are verified behind its first ``end`` tokens."""
        if not seq.num_ready:
            return 0
        drafts = self._room(seq, end, min(seq.num_ready, self._spare, most))
        self._spare -= drafts
        return drafts

    def propose(self, seq: Sequence, end: int) -> int:
        """Drafts to propose after a row that ends with so many tokens computed."""
        if not self.asks or seq.quarantined:
            return 0
        wanted = self._choose(seq)
        self._asked += 1
        if not wanted:
            return 0
        self._wanting += 1
        if not seq.num_ready:
            self._beginning = _SHOWN
        return self._room(seq, end + 1, wanted)

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
        self._judged += min(row.drafts, accepted + 1)
        self._right += accepted

    def measure(self, plan: Plan, tokens: int, *, last: bool) -> None:
        """A step has ended; its duration is the time since the one before did.

        Args:
            plan: of the step.
            tokens: that it has given.
            last: whether no step follows at once, so that the next interval means nothing.
        """
        if not self.most or not self._settings.adaptive:
            return
        if self._judged:
            self._overall.add(self._judged, self._right)
            self._judged = self._right = 0
        now = self._clock()
        before, self._updated = self._updated, None if last else now
        begins, self._beginning = self._beginning > 0, max(0, self._beginning - 1)
        if before is None or not (self.asks or begins):
            return
        rows = plan.rows
        if not plan.plain and any(row.count > 1 + row.drafts for row in rows):
            return
        count, seconds = len(rows), now - before
        payoff = self._payoffs.get(count.bit_length())
        if payoff is None:
            return
        # A step that looked for drafts and found none is no plain one, but part of the price.
        drafted = not plan.plain and any(row.drafts or row.propose for row in rows)
        if not (drafted or begins):
            payoff.rested(self._plain.add(count, seconds))
            return
        plain = self._plain.seconds(count)
        if plain is None:
            return
        drafts = sum(row.drafts for row in rows) / count
        payoff.costs.add(drafts, seconds / plain)
        if payoff.loses(tokens / count, seconds / plain, begins=begins):
            self._plain.forget(count)

    def _room(self, seq: Sequence, end: int, drafts: int) -> int:
        """The last token a limit allows is never computed, and nobody is preempted for a draft."""
        blocks = max(0, self._cache.pool.num_free - self._kept_blocks) + len(seq.blocks)
        room = min(seq.token_limit - 1, blocks * self._cache.block_size) - end
        return max(0, min(drafts, room))

    def _choose(self, seq: Sequence) -> int:
        if not self._settings.adaptive:
            return self.most
        acceptance, now = seq.drafting, self._now
        if not now.plain and acceptance.seeks():
            length = now.best(acceptance.likely(self._prior, self._doubt))
            if length:
                return length
            began = len(seq.token_ids) > seq.num_prompt
            if now.may_try and began and acceptance.may_try() and now.tries():
                acceptance.tries()
                return 1
        acceptance.rest(now.passed)
        return 0


class _Payoff:
    """Whether drafting pays in steps of one size, by what it was expected to and by what it does.

    Attributes:
        costs: of drafts.
        plain: whether nobody drafts in the step that is planned.
        length: of drafts to try in it, for their cost; 0 for none.
        may_try: whether sequences for which drafts lose may try one in it.
        passed: steps since one was planned that asked who drafts.
    """

    def __init__(self) -> None:
        self.costs = DraftCosts()
        self.length = 0
        self._rate = 0.0
        self.plain = False
        self.may_try = False
        self.passed = 1
        self._most = 0
        self._promise = _PROMISE
        # The best numbers of drafts by rate, as far as asked for since costs were last looked at,
        # and those costs by number.
        self._lengths: dict[int, int] = {}
        self._costs: list[float] = []
        self._steps = 0
        self._tried_at = -_TRY_AGAIN
        self._tries = 0
        # Plain steps' time that may go into finding out what lengths take, and into tries.
        self._allowed = _MOST_TRYING
        self._since_plain = 0
        self._plain_again = _DOUBTED
        # Of the last steps that looked for drafts: tokens a row, time in plain steps, and whether
        # some of that may be preparation.
        self._gains: deque[tuple[float, float, bool]] = deque(maxlen=_WINDOW)
        self._pause = 0
        self._next_pause = _FIRST_PAUSE

    def begin(
        self, rate: float, most: int, promise: float, passed: int, *, unmeasured: bool
    ) -> None:
        """A step is planned.

        Args:
            rate: of drafts accepted, of all sequences.
            most: drafts of a row.
            promise: times a plain row's speed that drafts must be expected to make.
            passed: steps since the last that was planned like this.
            unmeasured: whether nobody knows what a plain step takes.
        """
        looks = (self._steps + passed) // _LOOK_AGAIN > self._steps // _LOOK_AGAIN
        self._steps += passed
        self.passed = passed
        self.costs.begin(passed)
        self._allowed = min(self._allowed + passed * _TRYING, _MOST_TRYING)
        self.plain = self._pause > 0 or unmeasured
        self._pause = max(0, self._pause - passed)
        if looks or promise != self._promise:
            self._lengths.clear()
            self._costs.clear()
        self._rate, self._most, self._promise = rate, most, promise
        waited = self._steps - self._tried_at
        self.may_try = waited >= _TRY_AGAIN and self._allowed >= 0
        if self.plain or self._allowed < 0:
            self.length = 0
        elif self.length or looks:
            self.length = self.costs.trial(lambda n, cost: _tokens(rate, n) / cost, most)

    def doubts(self) -> bool:
        """Whether it is time to measure plain steps anew."""
        if self._since_plain < self._plain_again:
            return False
        self._since_plain = 0
        self._plain_again = min(_MORE_SURE * self._plain_again, _PLAIN_AGAIN)
        return True

    def tries(self) -> bool:
        """Whether one more sequence for which drafts lose may try one, while ``may_try``."""
        if self._tried_at != self._steps:
            self._tried_at, self._tries = self._steps, 0
        self._tries += 1
        return self._tries <= _TRIES

    def rested(self, times: float) -> None:
        """A plain step was measured; they take so many times as long as believed."""
        self.costs.slower(times)
        if times < _FASTER:
            # What drafts were thought to gain, they did not.
            self._gains.clear()
        self._since_plain = 0

    def loses(self, tokens: float, cost: float, *, begins: bool) -> bool:
        """Take in a step.

        Args:
            tokens: of a row.
            cost: its time in plain steps.
            begins: whether a speculator may have prepared sequences in it.

        Returns:
            Whether drafting has not paid, and pauses.
        """
        self._since_plain += 1
        if self._steps - self._tried_at <= _SHOWN:
            self._spend(cost - 1)
            return False
        self._gains.append((tokens, cost, begins))
        if not self.length and self._since_plain % _LOOK_AGAIN:
            return False
        longest = _HICCUP * median(gain[1] for gain in self._gains)
        if self.length and not begins and cost <= longest:
            self._spend(cost - tokens)
        taken = sum(c if begun else min(c, longest) for _, c, begun in self._gains)
        lost = _MARGIN * taken - sum(gain[0] for gain in self._gains)
        whole = len(self._gains) == _WINDOW
        if lost <= 0 or (not whole and lost < _MOST_LOST):
            if whole:
                self._next_pause = _FIRST_PAUSE
            return False
        self._gains.clear()
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        return True

    def _spend(self, lost: float) -> None:
        """Of what is allowed; a long step, which may be the machine's fault, is paid in part."""
        self._allowed = max(self._allowed - max(0.0, lost), -_MOST_LOST)

    def best(self, rate: float) -> int:
        """The number of drafts that makes tokens come fastest."""
        if self.length and rate >= self._rate:
            return self.length
        at = round(rate * _RATES)
        found = self._lengths.get(at)
        if found is None:
            found = self._lengths[at] = self._best(at / _RATES)
        return found

    def _best(self, rate: float) -> int:
        if not self._costs:
            reach = self.costs.reach(self._most)
            self._costs = [self.costs.cost(drafts) for drafts in range(1, reach + 1)]
        chosen, fastest = 0, self._promise
        for drafts, cost in enumerate(self._costs, 1):
            speed = _tokens(rate, drafts) / cost
            if speed > fastest:
                chosen, fastest = drafts, speed
        return chosen


def _tokens(rate: float, drafts: int) -> float:
    """Of a row on average."""
    return drafts + 1.0 if rate == 1 else (1 - rate ** (drafts + 1)) / (1 - rate)
