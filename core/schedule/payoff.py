"""Whether drafts pay in steps of one size: by what they were expected to give, and what they do."""

from __future__ import annotations

import math
from collections import deque

from .acceptance import Rates
from .step_times import DraftCosts, lengths, middle

__all__ = ("LOOK_AGAIN", "MARGIN", "PROMISE", "SHOWN", "Payoff")

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
# Share of the time that may be lost with drafts that do not pay. Of it, in plain steps' time: what
# an engine begins with, since a CPU records much then, once; what may be saved, and owed.
_LOSING = 0.01
_AT_FIRST = 16.0
_MOST_SAVED = 16.0
_MOST_OWED = 512.0
# What a step may cost at most, and one in which something was prepared: the rest is the machine's.
_MOST_AT_ONCE = 32.0
_MOST_PREPARING = 64.0
# What a step loses counts up to this, or what another has lost lately: once may be the machine's
# fault, and what preparation takes comes again. What each step with drafts leaves of that memory.
_ONCE = 8.0
_FORGIVING = 0.995
# A pause from which on several attempts in a row have failed.
_HOPELESS = 64
# Times what plain steps were believed to take that explains why drafts did not pay.
_SLOWER = 1.1
# Steps with drafts after which plain ones are measured anew: at first, since an engine may have
# been slow in the beginning, at most, and at most where they have just turned out to be slow.
_DOUBTED = 32
_MORE_SURE = 8
_PLAIN_AGAIN = 512
_SLOW_AGAIN = 128
# Of the time that plain steps were believed to take: what drafts seemed to gain, they did not.
_FASTER = 0.9
# Times plain steps' speed that drafts must promise, and keep: to a sequence alone, and to many.
# Each doubling adds as much: a batch ends with whoever has the least luck.
MARGIN = 1.02
PROMISE = 1.1
# What drafting at all takes, in plain steps, from which on it is the step that takes so long,
# whoever drafts in it; and what drafts take beside one each, up to which it is.
_DEAR = 1.5
_CHEAP = 0.3
# Plain steps' time that drafts beyond one each may take while nobody knows whether they are right
# for those who draft them, or as long as drafting at all takes.
_RISKED = 0.5
# Steps after which costs are looked at again, and whether drafting pays; and, at first, after which
# it is asked again who would draft where nobody does.
LOOK_AGAIN = 4
# Where drafts lose, a few sequences at once try one, so many steps apart for each of them, or more
# where that would take a greater share of the time. That goes into lengths that nobody knows as
# well, and is saved up to so many plain steps' time; an engine begins with more, knowing nothing.
_TRIES = 4
_TRY_AGAIN = 8
_TRYING = 0.0075
_MOST_TRYING = 1.0
_TRYING_AT_FIRST = 4.0
_TRYING_OWED = 16.0
# Steps until the durations of a try are known.
SHOWN = 3


class _Allowance:
    """Plain steps' time that may be lost: a share of what passes, and what is gained.

    Args:
        share: of the time.
        saved: that may be saved.
        owed: that may be owed.
        begins: that is there at first.
    """

    def __init__(self, share: float, saved: float, owed: float, begins: float) -> None:
        self.left = begins
        self._share = share
        self._saved = saved
        self._owed = owed

    def earn(self, steps: int) -> None:
        """So many steps pass."""
        self.add(steps * self._share)

    def add(self, time: float) -> None:
        """So much was gained, or lost if negative; what is too long to be owed is paid in part,
        as it may be the machine's fault."""
        left = self.left + time
        if time > 0 and left > self._saved:
            left = max(self.left, self._saved)
        self.left = max(left, -self._owed)


class Payoff:
    """One size of steps.

    Args:
        wait: steps that go without drafts at first.

    Attributes:
        costs: of drafts.
        plain: whether nobody drafts in the step that is planned.
        length: of drafts to try in it, for their cost; 0 for none.
        may_try: whether sequences for which drafts lose may try one in it.
        pays: whether drafts have paid, when that was last looked at.
        pause: steps that are yet to go without drafts.
    """

    def __init__(self, wait: int = 0) -> None:
        self.costs = DraftCosts()
        self.length = 0
        # Of all sequences, and the number of drafts that is best for those that are like all.
        self._rates = Rates(0.0, 0.0)
        self._usual: int | None = None
        self.plain = False
        self.may_try = False
        self.pays = False
        self.pause = wait
        self._most = 0
        self._promise = PROMISE
        # The best numbers of drafts by rates, as far as asked for since costs last changed when
        # they were looked at, and those costs by number.
        self._lengths: dict[tuple[int, int], int] = {}
        self._costs: list[tuple[int, float]] = []
        self._steps = 0
        # Whether it is time to look at costs again.
        self._looks = False
        self._tried_at = -_TRY_AGAIN
        self._tries = 0
        # What may go into finding out what lengths take, and into tries; and what drafts may lose
        # in all.
        self._trying = _Allowance(_TRYING, _MOST_TRYING, _TRYING_OWED, _TRYING_AT_FIRST)
        self._losing = _Allowance(_LOSING, _MOST_SAVED, _MOST_OWED, _AT_FIRST)
        self._since_plain = 0
        self._plain_again = _DOUBTED
        # Of the last steps that looked for drafts: tokens a row, time in plain steps, and whether
        # some of that may be preparation.
        self._gains: deque[tuple[float, float, bool]] = deque(maxlen=_WINDOW)
        # Steps that looked for drafts, of which few are judged: not by those since plain ones were
        # measured, which may never be as many.
        self._taken = 0
        self._next_pause = _FIRST_PAUSE
        # What long steps with drafts have lost lately.
        self._long = 0.0
        # Whether drafts have paid, since they last did not.
        self._paid = False
        # Times as long as believed that plain steps must be for what did not pay to have lost
        # nothing; and the longest pause after attempts in which nobody saw what drafts give.
        self._excuse = 1.0
        self._longest_unseen = _LONGEST_PAUSE

    def begin(self, passed: int, *, unmeasured: bool) -> None:
        """A step is planned.

        Args:
            passed: steps since the last that was planned like this.
            unmeasured: whether nobody knows what a plain step takes.
        """
        steps, self._steps = self._steps, self._steps + passed
        self._looks = self._looks or self._steps // LOOK_AGAIN > steps // LOOK_AGAIN
        self.costs.begin(passed)
        self._trying.earn(passed)
        self._losing.earn(passed)
        self.plain = self.pause > 0 or unmeasured
        self.pause = max(0, self.pause - passed)
        if self.plain:
            self.length = 0

    def expect(self, rates: Rates, most: int, fits: float, promise: float) -> None:
        """The step that is planned may have drafts.

        Args:
            rates: of all sequences.
            most: drafts of a row.
            fits: drafts of a row that all may have at once.
            promise: times a plain row's speed that drafts must be expected to make.
        """
        looks, self._looks = self._looks, False
        if (looks and self.costs.changed) or promise != self._promise:
            self.costs.changed = False
            self._lengths.clear()
            self._costs.clear()
        self._rates, self._most, self._promise = rates, most, promise
        self._usual = None
        waited = self._steps - self._tried_at
        # One slow step alone is no reason not to try.
        may_lose = self._trying.left >= 0 and self._losing.left >= -_MOST_AT_ONCE
        self.may_try = waited >= _TRY_AGAIN * min(self._tries, _TRIES) and may_lose
        if not may_lose:
            self.length = 0
        elif self.length or looks:
            self.length = self.costs.trial(
                lambda n, cost: rates.tokens(n) / cost, most, fits, promise
            )

    def doubts(self) -> bool:
        """Whether it is time to measure plain steps anew."""
        if self._since_plain < self._plain_again:
            return False
        self._since_plain = 0
        self._plain_again = min(_MORE_SURE * self._plain_again, _PLAIN_AGAIN)
        return True

    def owed(self) -> int:
        """Steps that make up for what was lost beyond what may be."""
        return max(round(-self._losing.left / _LOSING), 0)

    def untried(self) -> int:
        """Steps until anybody may draft in such steps for the first time."""
        return 0 if self._taken else self.pause

    def hopeless(self) -> bool:
        """Whether nobody drafts because it does not pay, and not for a few attempts that failed."""
        return not self.pause or self._next_pause >= _HOPELESS

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
            self._gains.clear()
        if times > _SLOWER:
            if times > self._excuse or self._losing.left >= -_MOST_SAVED:
                self.pause = max(min(self.pause, _FIRST_PAUSE), self.untried())
            # Perhaps only for a moment, and drafts seem to gain what they do not.
            self._plain_again = min(self._plain_again, _SLOW_AGAIN)
        self._since_plain = 0

    def shows(self, price: float) -> None:
        """Steps were shown at a price, in plain steps."""
        self._losing.add(-price)

    def followed(self, tokens: float, cost: float) -> None:
        """Take in a step behind drafts that has none itself; see ``loses``."""
        self._losing.add(tokens - min(cost, _MOST_AT_ONCE))
        if self._steps - self._tried_at <= SHOWN + 1:
            self._trying.add(min(tokens - cost, 0.0))

    def loses(self, tokens: float, cost: float, *, begins: bool, together: int = 1) -> bool:
        """Take in a step, or several.

        Args:
            tokens: of a row, in one.
            cost: time of one in plain steps.
            begins: whether a speculator may have prepared sequences in it.
            together: steps.

        Returns:
            Whether drafting has not paid, and pauses.
        """
        self._since_plain += together
        lost = min(cost, _MOST_PREPARING if begins else _MOST_AT_ONCE) - tokens
        self._losing.add(-min(lost, max(self._long, _ONCE)) * together)
        self._long = max(lost, self._long * _FORGIVING**together)
        if self._steps - self._tried_at <= SHOWN:
            self._trying.add(min(1 - cost, 0.0))
            return False
        self._gains.extend([(tokens, cost, begins)] * together)
        self._taken += together
        if together == 1 and not self.length and self._taken % LOOK_AGAIN:
            return False
        # What steps take in which nothing is prepared; with none of those, what all do.
        calm = [cost for _, cost, begun in self._gains if not begun]
        longest = _HICCUP * middle(calm or [cost for _, cost, _ in self._gains])
        if self.length and not begins and cost <= longest:
            self._trying.add(min(tokens / self._promise - cost, 0.0))
        whole = len(self._gains) == _WINDOW
        self.pays = whole and self._lost(longest, prepared=True) <= 0
        if self.pays:
            self._paid, self._next_pause = True, _FIRST_PAUSE
            self._longest_unseen = _LONGEST_PAUSE
            return False
        # What preparation takes may come back later, while little is owed: of few steps in a row,
        # as where a batch ends, all are part of it.
        waits = self._losing.left >= -_MOST_AT_ONCE
        if calm and not whole:
            waits = self._lost(longest, prepared=False) < _MOST_LOST
        if waits and not whole:
            return False
        made = self._made()
        self._excuse = self._spent(longest, prepared=False) / made if made > 0 else math.inf
        self._gains.clear()
        # Where they seem to pay next, plain steps may only have been measured at a bad time.
        self._plain_again = _DOUBTED
        owed = self.owed()
        if self._paid:
            # They may soon do so again.
            owed = min(owed, _HOPELESS)
        elif not calm:
            # Nobody has seen what they give when all is prepared.
            owed = min(owed, self._longest_unseen)
            self._longest_unseen *= 2
        self._paid = False
        self.pause = max(self._next_pause, owed)
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        return True

    def _lost(self, longest: float, *, prepared: bool) -> float:
        """Plain steps' time that the last steps lost, with or without preparation."""
        return self._promise * self._spent(longest, prepared=prepared) - self._made()

    def _spent(self, longest: float, *, prepared: bool) -> float:
        """Plain steps' time of those steps."""
        return sum(c if begun and prepared else min(c, longest) for _, c, begun in self._gains)

    def _made(self) -> float:
        """Tokens of a row in them."""
        return sum(tokens for tokens, _, _ in self._gains)

    def is_the_same_for_any(self) -> bool:
        """Whether a step takes about as long if a few do not draft in it: then nobody need leave
        out a search that may well be in vain."""
        one = self.costs.cost(1)
        return one > _DEAR or self.costs.cost(self.best(self._rates) or self._most) - one < _CHEAP

    def at_first(self, drafts: int) -> int:
        """Of so many drafts those for a sequence that has shown nothing yet: in a batch of such,
        two steps are planned before the first has shown whether they are like those before."""
        one = self.costs.cost(1)
        while drafts > 1 and self.costs.cost(drafts) - one > max(_RISKED, one - 1):
            drafts //= 2
        return drafts

    def best(self, rates: Rates) -> int:
        """The number of drafts that makes tokens come fastest."""
        if rates is not self._rates:
            return self._fastest(rates)
        if self._usual is None:
            self._usual = self._fastest(rates)
        return self._usual

    def _fastest(self, rates: Rates) -> int:
        if self.length and rates.tokens(self.length) >= self._rates.tokens(self.length):
            return self.length
        key = rates.key()
        found = self._lengths.get(key)
        if found is None:
            found = self._lengths[key] = self._best(rates)
        return found

    def _best(self, rates: Rates) -> int:
        if not self._costs:
            reach = self.costs.reach(self._most)
            self._costs = [
                (drafts, self.costs.cost(drafts))
                for drafts in lengths(self._most)
                if drafts <= reach
            ]
        chosen, fastest = 0, self._promise
        for drafts, cost in self._costs:
            speed = rates.tokens(drafts) / cost
            if speed > fastest:
                chosen, fastest = drafts, speed
        return chosen
