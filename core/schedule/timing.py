"""What every step took: what drafts cost beside steps without, and whether they have paid."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..step import Outcome, Plan
from .paces import Paces
from .payoff import SHOWN, Payoff
from .showing import Showing
from .step_times import Baseline
from .stretch import Stretch

__all__ = ("Timing",)

# Of plain steps one in so many is measured, once it is known what they take: not always one in
# which a sequence gets a block, as it would be with a multiple of a block's tokens.
_SAMPLED = 31
# Steps that are measured together where somebody comes or leaves, at least.
_FEWEST_TOGETHER = 4
# Looks for a plain step that nothing else is part of, after which any will do.
_CHOOSY = 3
# Steps behind prompts that take longer, as the host still has much to do for who has come. They
# tell nothing beyond what preparation takes, unless prompts were read within so many steps before.
# And those that some others take longer, until what they need is back in the host's caches: of
# many that are measured together these are none.
_BUSY = 2
_SETTLING = 6
_CALM = 16
# Steps with prompts that nothing is drafted from, to see what such take, at first; and those with
# drafts after which one more is.
_BARE = 3
_BARE_AGAIN = 64
# Seconds of steps of one size before the first drafts in them, less so many steps: to find out what
# drafts give takes a host some milliseconds, however short steps are. It takes some of that for
# each sequence, so of more than so many the wait grows with their number.
_UNTRIED = 0.3
_AT_ONCE = 100
_SEVERAL = 32


class _Step(NamedTuple):
    """A plan, and what its rows say.

    Attributes:
        plan: itself.
        reads: whether there are prompts in it.
        drafts: that it verifies.
        asks: whether drafts are proposed in it.
        follows: whether it verifies even if it has no drafts, as there are some in flight.
    """

    plan: Plan
    reads: bool = False
    drafts: int = 0
    asks: bool = False
    follows: bool = False

    @property
    def drafted(self) -> bool:
        """Whether drafts are part of it."""
        return self.drafts > 0 or self.asks


def _look_at(plan: Plan) -> _Step:
    if plan.plain:
        return _Step(plan)
    drafts, reads, asks, follows = 0, False, False, False
    for row in plan.rows:
        verified = row.drafts
        drafts += verified
        reads = reads or row.count > 1 + verified
        asks = asks or row.propose > 0
        follows = follows or row.slack > 0
    return _Step(plan, reads, drafts, asks, follows)


class Timing:
    """Measures steps, each from the end of the one before to its own.

    Attributes:
        baseline: what steps take where nobody drafts.
        looks: whether it is looked at who drafts in the step that is planned, or who might.
        choosy: whether plain steps are measured only where nobody looks and no prompts are ahead.
        price: of showing a plain step of that size, in plain steps; None where nobody knows.
        settling: steps that are yet to end behind prompts, of those that take longer.

    Args:
        clock: seconds, monotonic.
        showing: is told when drafts pay.
        max_slots: sequences that run at once.
        watches: whether a speculator is shown steps.
    """

    def __init__(
        self, clock: Callable[[], float], showing: Showing, max_slots: int, *, watches: bool
    ) -> None:
        self.baseline = Baseline()
        self.looks = False
        self.choosy = False
        self.price: float | None = None
        self._clock = clock
        self._showing = showing
        self._watches = watches
        self._payoffs: dict[int, Payoff] = {}
        self._paces = Paces(max_slots)
        # When the step before ended, or else when the first was planned.
        self._since: float | None = None
        self._first = True
        # Steps to be measured that may show what it takes to begin drafting for a sequence.
        self._preparing = 0
        # Steps, those yet to come behind one with drafts, which it is part of; whether all plain
        # ones are to be measured, and for how many looks they have been.
        self._steps = 0
        self._follow = 0
        self._unmeasured = False
        self._waited = 0
        # That which was planned last when a step was measured: mostly the next one that is.
        self._ahead = _Step(Plan(0, [], []))
        # Whether the step before verified drafts.
        self._verifies = False
        # Whether prompts are read in the last steps, and when they were.
        self._reading = False
        self._read_at = -_CALM
        self.settling = 0
        # Steps with prompts that are yet to go without drafts, and those since that did not.
        self._bare = 0
        self._prompts_drafted = 0

    def begin(self, *, looks: bool) -> None:
        """A step is planned."""
        self.looks = looks
        if self._since is None:
            self._since, self._first = self._clock(), True

    @property
    def runs(self) -> bool:
        """Whether the end of a step is there to measure the next one from."""
        return self._since is not None

    def settled(self, *, shown: bool) -> bool:
        """Whether steps like the last one need not be looked at one by one."""
        if not self.runs or self._follow or self.looks:
            return False
        if not shown:
            return True
        return not self._unmeasured and (self.price is not None or not self._watches)

    def disturb(self) -> None:
        """The time since the last step that was measured tells nothing."""
        self._since = None

    def settles(self) -> None:
        """A step has ended that is planned like those behind it, and not measured with them."""
        self._since = self._clock()
        self._steps += 1
        self.settling = max(0, self.settling - 1)

    def wakes(self, steps: int, rows: int, *, shown: bool) -> None:
        """So many steps without drafts have ended since one was measured, and the next one is of
        another kind."""
        self._steps += steps
        if self._since is not None and steps >= _FEWEST_TOGETHER:
            seconds = (self._clock() - self._since) / steps
            self._plain_one(rows, seconds, shown=shown, steps=steps)
        self.disturb()

    @property
    def steady(self) -> bool:
        """Whether the next steps with drafts are like the last ones, which verified some."""
        if self._unmeasured or self._preparing or self._reading:
            return False
        return self._verifies and self.runs

    def passes(self, stretch: Stretch, plan: Plan, outcome: Outcome) -> None:
        """A step of a stretch has ended; see ``measure``."""
        if stretch.ended and len(plan.rows) != stretch.rows:
            self.takes_in(stretch)
        stretch.take_in(plan, outcome, self._clock())

    def takes_in(self, stretch: Stretch) -> None:
        """What has ended of a stretch counts."""
        since, self._since = self._since, stretch.until
        self._count(stretch, since)
        stretch.measured()

    def _count(self, stretch: Stretch, since: float | None) -> None:
        rows, steps = stretch.rows, stretch.ended
        payoff, plain = self._payoffs.get(rows.bit_length()), self.baseline.seconds(rows)
        if since is None or stretch.cold or payoff is None or plain is None:
            return
        slots, drawn = list(stretch.drawn), list(stretch.drawn.values())
        gained = self._paces.gained(slots, drawn, steps) / steps
        cost = (stretch.until - since) / steps / plain
        payoff.costs.add(stretch.drafts / (steps * rows), cost, goes_on=True)
        self._judge(payoff, rows, loses=payoff.loses(gained, cost, begins=False, together=steps))

    def _judge(self, payoff: Payoff, rows: int, *, loses: bool) -> None:
        """Steps with drafts of so many rows were taken in."""
        if loses:
            self.baseline.plain.forget(rows)
        elif payoff.pays:
            self._showing.pays()

    def payoff(self, needed: int) -> Payoff:
        """That of steps for so many sequences."""
        self.price = self.baseline.price(needed) if self._watches else None
        payoff = self._payoffs.get(needed.bit_length())
        if payoff is None:
            plain = self.baseline.plain.near(needed)
            if plain is None:
                # Nobody drafts before one was measured.
                return Payoff()
            several = max(1.0, needed / _SEVERAL)
            wait = max(0, round(several * (_UNTRIED / plain - _AT_ONCE)))
            payoff = self._payoffs[needed.bit_length()] = Payoff(wait)
        return payoff

    def unmeasured(self, needed: int, payoff: Payoff) -> bool:
        """Whether it is to be found out what plain steps of that size take."""
        if payoff.doubts():
            self.baseline.plain.forget(needed)
        self._unmeasured = self.baseline.plain.wanted(needed)
        known = self.baseline.plain.knows(needed)
        self._waited = self._waited + 1 if self._unmeasured and known else 0
        self.choosy = known and self._waited <= _CHOOSY
        return self._unmeasured

    def prepares(self) -> None:
        """Drafting begins for a sequence in the step that is planned.

        With overlap the host's part of a step is measured as that of the one before.
        """
        self._preparing = self._follow = SHOWN

    @property
    def wants_bare_prompts(self) -> bool:
        """Whether nothing is to be drafted from prompts, so that they can be measured."""
        return self._bare > 0

    def measure(
        self, plan: Plan, outcome: Outcome, ahead: Plan, *, last: bool, together: int = 1
    ) -> None:
        """A step has ended; see ``Drafting.measure``.

        Launching the step ahead may be part of what this one takes. Steps that are measured
        together have no drafts, and are as many as have ended since one was measured.
        """
        now = self._clock()
        since, self._since = self._since, None if last else now
        first, self._first = self._first, False
        self._steps += together
        if together > 1:
            if since is not None and not outcome.cold:
                seconds = (now - since) / together
                self._plain_one(len(plan.rows), seconds, shown=plan.shown, steps=together)
            return
        begins = self._preparing > 0
        step = self._ahead if self._ahead.plan is plan else _look_at(plan)
        following = self._ahead = step if ahead is plan else _look_at(ahead)
        busy = self._is_busy(reads=step.reads)
        self._reading = step.reads or following.reads or busy
        if plan.newcomers:
            self._paces.forget(newcomer.slot for newcomer in plan.newcomers)
        if self._steps % _SAMPLED and not (
            self.looks or self._unmeasured or self._follow or step.reads
        ):
            return
        self._preparing -= begins
        goes_on, self._verifies = self._verifies, step.drafts > 0
        self._follow = SHOWN if step.drafted or begins else max(0, self._follow - 1)
        if since is None or outcome.cold or (busy and not (begins and step.drafted)):
            return
        seconds = now - since
        if step.reads:
            self._prompts(step, outcome, seconds, first=first)
        elif first or (self.choosy and following.reads):
            return
        elif plan.shown:
            leads, tokens = following.drafted, outcome.tokens
            self._draws(step, tokens, seconds, begins=begins, goes_on=goes_on, leads=leads)
        elif plan.plain:
            self._plain_one(len(plan.rows), seconds, shown=False)

    def _is_busy(self, *, reads: bool) -> bool:
        """Whether the host had much to do in a step, for prompts in one before."""
        if not reads:
            left, self.settling = self.settling, max(0, self.settling - 1)
            return left > _SETTLING - _BUSY
        if self._steps - self._read_at >= _CALM:
            self.settling = _SETTLING
        self._read_at = self._steps
        return False

    def _plain_one(self, rows: int, seconds: float, *, shown: bool, steps: int = 1) -> None:
        """A step without drafts, and none before or behind it, or the mean of several."""
        if not shown:
            # One rest may be all that shows what such steps take.
            self.baseline.add_unseen(rows, seconds, steps)
            self.price = self.baseline.price(rows)
            return
        times = self.baseline.plain.add(rows, seconds)
        payoff = self._payoffs.get(rows.bit_length())
        if payoff is not None:
            payoff.rested(times)

    def _prompts(self, step: _Step, outcome: Outcome, seconds: float, *, first: bool) -> None:
        """A step with chunks of prompts: what it takes longer for being seen and drafted from, and
        the tokens that drafts have given beside them."""
        plan, proposes = step.plan, step.drafted
        count, rows = plan.num_tokens, len(plan.rows)
        if not proposes and not (self._watches and plan.shown):
            self.baseline.add_prompts(count, seconds, first=first)
            self._bare = max(0, self._bare - 1)
            return
        payoff, plain = self._payoffs.get(rows.bit_length()), self.baseline.seconds(rows)
        usual = self.baseline.prompts(count, first=first)
        self._prompts_drafted += proposes
        again = usual is None or self._prompts_drafted % _BARE_AGAIN == 0
        # Where steps are watched, those that go unseen show it.
        if proposes and again and not self._watches:
            self._bare = _BARE if usual is None else 1
        if payoff is None or plain is None or usual is None:
            return
        cost = max(seconds - usual, 0.0) / plain
        if not proposes:
            payoff.shows(cost)
            return
        gained = sum(len(drawn) - 1 for drawn in outcome.tokens if drawn) / rows
        if payoff.loses(gained, cost, begins=True):
            self.baseline.plain.forget(rows)

    def _draws(
        self,
        step: _Step,
        tokens: list[list[int]],
        seconds: float,
        *,
        begins: bool,
        goes_on: bool,
        leads: bool,
    ) -> None:
        """A step of nothing but single tokens and drafts."""
        rows, baseline, drafted = step.plan.rows, self.baseline, step.drafted
        count = len(rows)
        # A step that looked for drafts and found none is no plain one, but part of the price; so is
        # one before it.
        plain_one = not (drafted or begins or step.follows or leads)
        # Looking takes its time as well.
        if plain_one and not (self.looks and self.choosy):
            self._plain_one(count, seconds, shown=True)
            return
        payoff, plain = self._payoffs.get(count.bit_length()), baseline.seconds(count)
        if payoff is None or plain is None:
            return
        slots = [row.slot for row in rows]
        gained, cost = self._paces.gained(slots, list(map(len, tokens))), seconds / plain
        if not (drafted or begins or leads):
            payoff.followed(gained, cost)
            return
        if drafted:
            payoff.costs.add(step.drafts / count, cost, goes_on=goes_on)
        self._judge(payoff, count, loses=payoff.loses(gained, cost, begins=begins))
