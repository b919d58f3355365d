"""How many tokens to draft for whom: as many as make tokens come fastest, by what was measured.

Drafts make a step longer and let it emit more. With f the rate at which a sequence's first
drafts are accepted, and r that of one more, k drafts give 1 + f (1 + r + ... + r^(k - 1)) tokens a
step on average; what steps with k drafts a row take is measured as they run, for each size of
batch. The best k maximises tokens over time, and is 0 where drafting loses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..cache.manager import CacheManager
from ..contracts.scheduler import SchedulerSettings
from ..sequence import Sequence
from ..step import Delta, Outcome, Plan, Row
from .acceptance import Acceptance, Judged, Rates, judge, pooled
from .nap import Nap
from .payoff import LOOK_AGAIN, MARGIN, PROMISE, Payoff
from .showing import Showing
from .spare import Spare
from .stretch import Stretch
from .timing import Timing

__all__ = ("Drafting",)

# Believed of a speculator nobody has seen at work.
_FIRST_RATE = 0.7
_FIRST_TRUST = 1.0
# Standard deviations by which a sequence's own evidence may miss what others have shown before it
# counts, for one alone and at most.
_DOUBT_ALONE = 0.5
_MOST_DOUBT = 3.0
# Drafts that a sequence tries although they lose: the second shows how long right ones go on.
_TRIED = 2
# Doublings of one sequence that are many.
_MANY = 3
# Drafts of any sequence that count, and of those that take their place as they are forgotten: text
# comes in runs that can be copied and runs that cannot, and many sequences soon draft that much.
# What a step without drafts leaves of the first.
_LATELY = 30.0
_EVER = 150.0
_FORGETTING = 0.99
# Steps after which it is asked again who would draft, at most, where nobody does, or as many as
# take so long: asking takes a host longer than planning, and as long as half a small model's step.
_LONGEST_REST = 64
_LONGEST_WAIT = 0.02
# Of these, steps that go by without a look at anything, at most and at least, where nobody comes or
# leaves: looking takes a few hundredths of a step of a small model.
_LONGEST_NAP = 255
_SHORTEST_NAP = 4


class Drafting:
    """Chooses the number of drafts, row by row, and learns from every step.

    Attributes:
        most: drafts of a row; 0 where nothing proposes any.
        asks: whether anybody may draft in the step that is planned.
        ahead: the step that was planned last, which may be launched before another is taken in.
        showing: whether a speculator is shown that step.
        rows: that verified drafts.
        tried: drafts verified.

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
        self.ahead = Plan(0, [], [])
        self.showing = Showing(rests=settings.watches and settings.adaptive)
        self.rows = 0
        self.tried = 0
        self._adapts = self.most > 0 and settings.adaptive
        # Rows by the number of their drafts that were accepted.
        self._accepted = [0] * (self.most + 1)
        self._settings = settings
        self._cache = cache
        slots = settings.max_num_seqs
        self._timing = Timing(clock, self.showing, slots, watches=settings.watches)
        self._lately = Acceptance(_LATELY)
        self._ever = Acceptance(_EVER)
        self._now = Payoff()
        self._prior = Rates(_FIRST_RATE, _FIRST_RATE)
        self._doubt = _DOUBT_ALONE
        # Whether even those draft that have just found nothing, and whether drafts that stand ready
        # are left out where they lose.
        self._whole = self._abandons = False
        # Drafts of the step that is taken in.
        self._judged: list[Judged] = []
        # Sequences asked in the last step that looked, those that wanted drafts, draws until one of
        # them looks for some again, those for which drafts would lose, how many it was for, and
        # whether plain steps are to be measured where nobody looks.
        self._asked = self._wanting = self._skipping = 0
        self._declined = self._needed = 0
        self._unmeasured = False
        # Steps since that one, those of them that were shown, and steps that go by before the next.
        self._passed = self._seen = self._rest = 0
        self._nap = Nap()
        # Steps with drafts that are planned without a look at each sequence, and how many ran in
        # the last one that looked; 0 where a stretch has begun since.
        self._stretch = Stretch()
        self._ran = 0
        # Steps since sequences were asked, and those between the last two times.
        self._unasked = self._draws = 0
        # Whether nobody wants drafts as they do not pay, and steps that must therefore go unseen.
        self._idle = False
        self._owed = 0
        # Whether somebody has drafted since nobody last wanted to.
        self._drafted = False
        # What drafts may take of the step that is planned, and blocks that they may not.
        self._spare = Spare()
        self._kept_blocks = 0

    def begin(self, running: int, waiting: int, budget: int) -> None:
        """Plan a step: drafts may take what no sequence needs for its next token.

        Args:
            running: sequences.
            waiting: sequences that may be admitted.
            budget: tokens.
        """
        nap = self._nap
        # Thousands of steps a second are such.
        if nap.left and running == nap.rows and not waiting:
            nap.left -= 1
            return
        if not self.most:
            return
        if nap.over:
            self._wake()
        needed = running + min(waiting, self._settings.max_num_seqs - running)
        self._spare.begin(min(self._settings.max_draws, budget) - needed)
        self._kept_blocks = running
        if not self._adapts:
            self.asks = True
            return
        self._passed += 1
        if self._goes_on(running, waiting):
            # They are asked in it.
            self._unasked -= 1
            return
        if self._timing.looks:
            self._settle()
        elif needed.bit_length() != self._needed.bit_length():
            self._rest = min(self._rest, LOOK_AGAIN)
        self.showing.begin(
            idle=self._idle,
            owed=self._owed,
            unpriced=self._timing.price is None,
            waiting=waiting > 0,
        )
        self._owed = 0
        self._seen += self.showing.shown
        looks = self.showing.shown and self._passed >= self._rest
        looked, self.asks = self._timing.looks, False
        self._timing.begin(looks=looks)
        if looks:
            self._look(running, needed)
        else:
            self._fall_asleep(running, waiting, looked=looked)

    def _goes_on(self, running: int, waiting: int) -> bool:
        """Whether every sequence drafts in the step that is planned as it did in the last."""
        stretch, now = self._stretch, self._now
        if waiting or running > (stretch.running or self._ran):
            if stretch.running:
                self._end_stretch()
                self._timing.disturb()
            return False
        drafts = self.asks and self._wanting > 0
        pays = now.pays and not now.length
        if not stretch.running and drafts and pays and self._timing.steady:
            best = now.best(self._prior) or 1
            stretch.begin(running, self._prior.tokens(best), now.costs.cost(best))
            # Another one begins behind a look.
            self._ran = 0
        if not drafts:
            stretch.left = 0
        if not stretch.left:
            return False
        stretch.left -= 1
        stretch.running = running
        self.showing.pass_by(int(stretch.doubtful), idle=False)
        self._wanting = self._skipping = 0
        return True

    def _fall_asleep(self, running: int, waiting: int, *, looked: bool) -> None:
        """Let steps pass, if nothing can be learned from the next ones, nor from the one in flight,
        which may have looked."""
        shown, timing = self.showing.shown, self._timing
        if waiting or not self.ahead.plain or not timing.settled(shown=shown):
            return
        steps = min(_LONGEST_NAP, self._rest - self._passed - 1) if shown else _LONGEST_NAP
        if steps >= _SHORTEST_NAP:
            self._nap.begin(steps, running, unmeasured=max(timing.settling, int(looked)))

    def _wake(self) -> None:
        """Make up for the steps that have passed."""
        nap = self._nap
        if nap.left or nap.ended:
            self._timing.wakes(max(nap.ended, 0), nap.rows, shown=self.showing.shown)
        passed = nap.end()
        self._passed += passed
        self._seen += passed * self.showing.shown
        self.showing.pass_by(passed, idle=self._idle)

    def _settle(self) -> None:
        """Take in what those who were asked have said."""
        waits = self._skipping if not self._wanting else 0
        idle = self._asked > 0 and not self._wanting and not waits
        if idle:
            step = self._timing.baseline.seconds(self._needed) or _LONGEST_WAIT
            longest = max(int(_LONGEST_WAIT / step), _LONGEST_REST)
            self._rest = min(max(2 * self._rest, LOOK_AGAIN, self._now.pause), longest)
        else:
            self._rest = waits or LOOK_AGAIN * self._unmeasured
        if idle and self._declined and self._drafted:
            # Perhaps because the machine has become slower.
            self._timing.baseline.plain.forget(self._needed)
            self._drafted = False
        self._idle = idle and self._now.hopeless()
        self._owed = self._now.owed() if idle and self._timing.price else 0
        if idle:
            self.showing.wait(self._now.untried())

    def _look(self, running: int, needed: int) -> None:
        self._needed = needed
        payoff = self._now = self._timing.payoff(needed)
        if self._seen > 1 and self._timing.price:
            payoff.shows(self._seen * self._timing.price)
        unmeasured = self._timing.unmeasured(needed, payoff)
        payoff.begin(self._passed, unmeasured=unmeasured)
        self._unasked += self._passed
        self._passed = self._seen = 0
        # Plain steps are measured one after the other until they are known.
        self._unmeasured = unmeasured and self._timing.choosy
        self._ran = running
        self._asked, self._wanting, self._declined = running, int(unmeasured), 0
        self._skipping, self._abandons = 0, False
        if payoff.plain:
            return
        self.asks = True
        self._asked, self._draws, self._unasked = 0, self._unasked, 0
        self._lately.rest(self._draws - 1, _FORGETTING)
        # Among many, who has had luck would draft more and make the steps of the others longer.
        many = math.log2(max(running, 1)) / _MANY
        self._doubt = _DOUBT_ALONE + min(many, 1.0) * (_MOST_DOUBT - _DOUBT_ALONE)
        ever = self._ever.rates(_FIRST_RATE, _FIRST_TRUST)
        self._prior = self._lately.beside(ever)
        fits, promise = self._spare.left / max(running, 1), MARGIN + many * (PROMISE - MARGIN)
        payoff.expect(self._prior, self.most, fits, promise)
        self._whole = payoff.is_the_same_for_any()
        # One step of many shows as much as many of one.
        self._abandons = many >= 1 and not (payoff.length or payoff.best(self._prior))

    def take(self, seq: Sequence, end: int, most: int) -> int:
        """How many of a sequence's drafts are verified behind its first ``end`` tokens."""
        drafts = seq.num_ready
        if not drafts or (self._abandons and seq.drafting.length and not self._best(seq)):
            return 0
        return self._spare.take(self._room(seq, end, drafts), most)

    def propose(self, seq: Sequence, end: int) -> int:
        """Drafts to propose after a row that ends with so many tokens computed."""
        if not self.asks or seq.quarantined:
            return 0
        if self._stretch.running:
            return self._propose_again(seq, end)
        if end <= seq.num_prompt and self._timing.wants_bare_prompts:
            return 0
        self._asked += 1
        wanted, promising = self._choose(seq) if self.showing.sees(seq) else (0, False)
        if not wanted:
            return 0
        self._wanting += 1
        self._drafted = True
        if not seq.num_ready:
            self._timing.prepares()
        drafts = self._room(seq, end + 1, wanted)
        if drafts and promising:
            self.showing.promise()
        return drafts

    def _propose_again(self, seq: Sequence, end: int) -> int:
        """As many drafts as were last chosen for a sequence, unless it leaves a search out."""
        skipped = 0 if self._whole else seq.drafting.skips()
        if skipped:
            self._skipping = min(self._skipping or skipped, skipped)
        if skipped or not seq.drafting.length or not self.showing.sees(seq):
            return 0
        self._wanting += 1
        return self._room(seq, end + 1, seq.drafting.length)

    def learn(self, seq: Sequence, row: Row, delta: Delta) -> None:
        """Take in what a row with drafts has given; filling where none was proposed has its cost,
        too."""
        accepted = delta.num_accepted
        self.rows += 1
        self.tried += delta.num_drafts
        self._accepted[accepted] += 1
        if self._adapts:
            judged = judge(row.drafts, accepted)
            seq.drafting.learn(judged)
            self._judged.append(judged)

    @property
    def accepted_at(self) -> list[int]:
        """Drafts accepted, by position in their row."""
        return [sum(self._accepted[position:]) for position in range(1, self.most + 1)]

    def measure(self, plan: Plan, outcome: Outcome, *, last: bool) -> None:
        """A step has ended; its duration is the time since the one before did.

        Args:
            plan: of the step.
            outcome: of the step.
            last: whether no step follows at once, so that the next interval means nothing.
        """
        nap = self._nap
        if nap.left and not last:
            nap.ended += 1
            if outcome.cold:
                self._timing.disturb()
            elif nap.ended <= 0:
                self._timing.settles()
            return
        if not self._adapts:
            return
        stretch = self._stretch
        passes = stretch.running and not last and any(row.drafts for row in plan.rows)
        if passes:
            self._timing.passes(stretch, plan, outcome)
            if stretch.left:
                return
        self._learn_of_all()
        self._end_stretch()
        if passes:
            return
        together = nap.measured()
        self._timing.measure(plan, outcome, self.ahead, last=last, together=together)

    def _end_stretch(self) -> None:
        if self._stretch.ended:
            self._timing.takes_in(self._stretch)
        self._stretch.end()

    def _learn_of_all(self) -> None:
        if self._judged:
            judged = pooled(self._judged)
            self._lately.learn(judged)
            self._ever.learn(judged)
            self._judged.clear()

    def _room(self, seq: Sequence, end: int, drafts: int) -> int:
        """The last token a limit allows is never computed, and nobody is preempted for a draft."""
        held, size = len(seq.blocks), self._cache.block_size
        if end + drafts <= held * size and end + drafts < seq.token_limit:
            return drafts
        blocks = max(0, self._cache.pool.num_free - self._kept_blocks) + held
        room = min(seq.token_limit - 1, blocks * size) - end
        return max(0, min(drafts, room))

    def _best(self, seq: Sequence) -> int:
        return self._now.best(seq.drafting.likely(self._prior, self._doubt))

    def _choose(self, seq: Sequence) -> tuple[int, bool]:
        """Drafts that a sequence wants, and whether they promise to pay."""
        if not self._adapts:
            return self.most, True
        acceptance, now = seq.drafting, self._now
        if not now.plain:
            skipped = 0 if self._whole else acceptance.skips(self._draws)
            if skipped:
                self._skipping = min(self._skipping or skipped, skipped)
                acceptance.rest(self._draws)
                return 0, False
            length = self._best(seq)
            if length > 1 and acceptance.unknown:
                length = now.at_first(length)
            acceptance.length = length
            if length:
                return length, True
            self._declined += 1
            began = len(seq.token_ids) > seq.num_prompt
            if now.may_try and began and acceptance.may_try() and now.tries():
                acceptance.tries()
                return min(_TRIED, self.most), False
        acceptance.rest(self._draws)
        return 0, False
