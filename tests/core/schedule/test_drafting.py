"""How many drafts are asked for: what makes tokens come fastest, by a clock of the test's own."""

import itertools
import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.cache.manager import CacheManager
from quire.core.contracts.scheduler import SchedulerSettings
from quire.core.request import Request, SamplingParams
from quire.core.schedule import drafting
from quire.core.schedule.acceptance import Acceptance, Judged, Rates, judge, pooled
from quire.core.schedule.drafting import Drafting
from quire.core.schedule.payoff import LOOK_AGAIN, PROMISE, Payoff
from quire.core.schedule.step_times import Baseline, DraftCosts
from quire.core.schedule.stretch import Stretch
from quire.core.sequence import Sequence
from quire.core.step import Delta, Newcomer, Outcome, Plan, Row

MOST = 6


class World:
    """Sequences whose drafts are accepted at a rate, and steps that take what a formula says."""

    def __init__(self, rates: list[float], seconds, *, watches: bool = False) -> None:
        limits = SchedulerSettings(
            num_blocks=9000, block_size=16, max_num_seqs=64, max_num_batched_tokens=4096,
            max_model_len=100_000, max_drafts=MOST, max_draws=512, watches=watches,
        )  # fmt: skip
        cache = CacheManager(9000, 16, prefix_caching=False)
        self.now = 0.0
        self.drafting = Drafting(limits, cache, lambda: self.now)
        self.seconds = seconds
        self.search = 0.0
        # How many drafts of a chain would be accepted, where rates do not say.
        self.chains: Callable[[random.Random], int] | None = None
        self.preparation = 0.0
        # Beside drafts in flight, where they end is known to the device alone.
        self.behind = 0.0
        # Of an executor, beside the formula: whether a step is cold, and what it adds.
        self.executor: Callable[[Plan], tuple[bool, float]] = lambda plan: (False, 0.0)
        # Tokens of the prompt that a sequence begins with; what reading one takes.
        self.prompt = 0
        self.reading = 0.0
        # Whether nothing runs before a batch is drained, and no step follows the present one.
        self.idles = self.last = False
        self.flight: dict[Sequence, tuple[int, int]] = {}
        self.rates = rates
        self.rng = random.Random(0)
        self.tokens = 0
        self.seqs = _sequences(len(rates), 1)
        self.rows: list[Row] = []
        # Those that get their slots in the next step.
        self.waiting = list(self.seqs)

    def step(self) -> list[int]:
        """The drafts of each row."""
        self._advance()
        return [row.drafts for row in self.rows]

    def _advance(self) -> list[int]:
        """The tokens of each row."""
        running = len(self.seqs) - len(self.waiting)
        self.drafting.begin(running, len(self.waiting), 4096)
        new = set(self.waiting)
        while self.waiting:
            self.drafting.showing.enter(self.waiting.pop())
        rows = []
        for seq in self.seqs:
            if self.prompt and seq in new:
                rows.append(Row(seq.slot, 0, self.prompt, [], True))
                seq.num_ready = rows[-1].propose = self.drafting.propose(seq, self.prompt)
                self.flight[seq] = 0, 0
                self.now += self.reading + self.preparation * (seq.num_ready > 0)
                continue
            drafts = self.drafting.take(seq, 10, 4096)
            before = self.flight.get(seq, (0, 0))
            rows.append(Row(seq.slot, 10, 1 + drafts, [], True, drafts, sum(before)))
            self.flight[seq] = before[1], drafts
            idle = not seq.num_ready
            seq.num_ready = rows[-1].propose = self.drafting.propose(seq, 10)
            self.now += self.preparation * (idle and seq.num_ready > 0)
        self.rows, made = rows, []
        behind = any(row.slack for row in rows) and not any(row.drafts for row in rows)
        self.now += self.seconds(sum(row.count for row in rows), sum(row.drafts for row in rows))
        self.now += self.behind * behind
        self.now += self.search * any(seq.num_ready for seq in self.seqs)
        for seq, row, rate in zip(self.seqs, rows, self.rates, strict=True):
            accepted = 0
            if self.chains is not None:
                accepted = min(row.drafts, self.chains(self.rng))
            while accepted < row.drafts and self.rng.random() < rate:
                accepted += 1
            made.append(1 + accepted)
            seq.token_ids += [0] * made[-1]
            delta = Delta("", [0] * (1 + accepted), num_drafts=row.drafts, num_accepted=accepted)
            if row.drafts:
                self.drafting.learn(seq, row, delta)
        self.tokens += sum(made)
        plain = not any(row.drafts or row.slack or row.propose or row.count > 1 for row in rows)
        newcomers = [Newcomer(seq.slot, [], 1, 0, SamplingParams()) for seq in new]
        plan = Plan(0, newcomers, rows, plain, self.drafting.showing.shown)
        self.drafting.ahead = plan
        cold, taken = self.executor(plan)
        self.now += taken
        outcome = Outcome(0, [[0] * count for count in made], cold=cold)
        self.drafting.measure(plan, outcome, last=self.last)
        return made

    def drain(self, tokens: int) -> float:
        """Run a batch of new sequences to so many tokens each: the time it takes."""
        if self.idles:
            self.drafting.measure(Plan(0, [], []), Outcome(0, []), last=True)
            self.now += 50.0
        begun, rates = self.now, self.rates
        prompt = max(self.prompt, 1)
        self.seqs = _sequences(len(rates), prompt)
        self.waiting = list(self.seqs)
        made = [0] * len(rates)
        while self.seqs:
            made = [more + old for more, old in zip(self._advance(), made, strict=True)]
            left = [index for index, count in enumerate(made) if count < tokens]
            made = [made[index] for index in left]
            self.seqs = [self.seqs[index] for index in left]
            self.rates = [self.rates[index] for index in left]
        self.rates = rates
        return self.now - begun

    def run(self, steps: int) -> list[list[int]]:
        return [self.step() for _ in range(steps)]


def _sequences(count: int, prompt: int) -> list[Sequence]:
    """In slots of their own."""
    found = [Sequence(_request(str(index), prompt)) for index in range(count)]
    for slot, seq in enumerate(found):
        seq.slot = slot
    return found


def _request(name: str, prompt: int = 1) -> Request:
    params = SamplingParams(max_tokens=90_000)
    return Request(
        request_id=name, prompt_token_ids=[1] * prompt, params=params, seed=0, max_tokens=90_000
    )


def flat(rows: int, drafts: int) -> float:
    """A device that reads weights: drafts cost two percent each."""
    return 1 + 0.02 * drafts


def busy(rows: int, drafts: int) -> float:
    """A device at the limit of its arithmetic: every row costs the same."""
    return rows


def gpu(rows: int, drafts: int) -> float:
    """Milliseconds of a device that reads weights below 64 rows and is at its limit from 512 on."""
    points = [(1, 3.96), (2, 4.7), (16, 4.57), (64, 5.03), (128, 6.2), (256, 8.56), (512, 14.7)]
    return float(np.interp(rows, *zip(*points, strict=True)))


def rate_of(world: World, steps: int = 400) -> float:
    """Tokens a second, once the first steps have taught what there is to learn."""
    world.run(200)
    before, since = world.tokens, world.now
    world.run(steps)
    return (world.tokens - before) / (world.now - since)


def host(rows: int, drafts: int) -> float:
    """A small model, whose steps take what a host needs."""
    return 0.00025 if drafts else 0.0001


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("users", [1, 4, 16])
def test_drafts_lose_little_from_the_first_step_on(users: int, rate: float) -> None:
    """Of short steps the first ones with drafts are several times as long."""
    more = [0.002, 0.001, 0.0005] + [0.0002] * 8

    def at_first(plan: Plan) -> tuple[bool, float]:
        return False, more.pop(0) if more and any(row.drafts for row in plan.rows) else 0.0

    world = World([rate] * users, host)
    world.executor = at_first
    tokens = 0
    for _ in range(100):
        world.drain(96)
        tokens += 96
        assert tokens * host(1, 0) / world.now > 0.97
    assert world.drafting.tried and not more


@pytest.mark.parametrize("step", [0.0001, 0.001, 0.004])
def test_drafts_begin_where_they_can_lose_little(step: float) -> None:
    """Or as long afterwards as nobody looks."""
    world = World([0.9], lambda rows, drafts: step)
    while not world.drafting.tried:
        world.step()
    first = max(0.3 - 100 * step, 0)
    assert first <= world.now < first + 2 * max(0.02, 64 * step) + 8 * step


def test_drafts_begin_at_once_in_steps_of_every_size_that_are_long() -> None:
    world = World([0.9] * 8, lambda rows, drafts: 0.005)
    world.drain(64)
    tried = world.drafting.tried
    world.rates = [0.9] * 2
    world.drain(24)
    assert world.drafting.tried > tried > 0


def test_good_drafts_get_long() -> None:
    world = World([0.95], flat)
    world.run(40)
    lengths = [lengths[0] for lengths in world.run(100)]
    assert sum(lengths) / len(lengths) > MOST - 1


def test_the_step_that_admits_a_sequence_proposes_drafts() -> None:
    """What it costs is that of a step with the sequence, of which more is known."""
    world = World([0.9], flat)
    world.run(60)
    world.drafting.begin(0, 1, 4096)
    assert world.drafting.propose(Sequence(_request("new")), 10) == MOST


def test_bad_drafts_are_given_up_and_tried_again() -> None:
    world = World([0.0], flat)
    world.run(40)
    lengths = [lengths[0] for lengths in world.run(2000)]
    assert 0 < sum(lengths) < 60
    world.rates = [0.95]
    world.run(700)
    assert sum(lengths[0] for lengths in world.run(50)) > 50 * (MOST - 2)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("users", [1, 8, 64])
@pytest.mark.parametrize("cost", [flat, busy])
def test_never_three_percent_slower_than_without(rate, users, cost) -> None:
    world = World([rate] * users, cost)
    plain = users / cost(users, 0)
    assert rate_of(world) > 0.97 * plain


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.4, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("users", [1, 16, 64])
def test_a_batch_ends_no_later_than_without(rate, users) -> None:
    """Neither for who is unlucky nor for what few sequences teach while the others have ended."""
    turns = []
    for seed in range(2):
        world = World([rate] * users, gpu)
        world.rng.seed(seed)
        turns.extend([world.drain(128) for _ in range(4)][1:])
    plain = 128 * gpu(users, 0)
    assert plain / statistics.mean(turns) > 0.95


@pytest.mark.parametrize(("luckless", "cost"), [(10, 2.0), (12, 1.6)])
def test_few_with_right_drafts_do_not_slow_the_others_down(luckless: int, cost: float) -> None:
    """More tokens a second, and a batch that ends an eighth later: that is no gain."""
    world = World(
        [0.95] * (16 - luckless) + [0.0] * luckless,
        lambda rows, drafts: cost + 0.03 * drafts / 16 if drafts else 1.0,
    )
    turns = [world.drain(96) for _ in range(60)][10:]
    assert 96 / statistics.mean(turns) > 0.94


@pytest.mark.parametrize("users", [1, 16])
def test_drafts_come_back_when_they_have_become_right(users) -> None:
    world = World([0.0] * users, gpu)
    for _ in range(3):
        world.drain(128)
    world.rates = [0.8] * users
    turns = [world.drain(128) for _ in range(3)]
    assert 128 * gpu(users, 0) / statistics.mean(turns) > 1.3


@pytest.mark.parametrize("users", [8, 64])
def test_drafts_of_many_that_have_turned_out_wrong_are_left_out(users: int) -> None:
    """One step shows it, behind which only the drafts of the step before are still verified."""
    world = World([0.8] * users, lambda rows, drafts: 1 + drafts / (3 * users))
    world.run(300)
    world.rates = [0.0] * users
    drafted = [sum(drafts) for drafts in world.run(6)]
    assert min(drafted[:2]) > users
    assert not any(drafted[2:])


@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (16, 1), (64, 1)])
def test_a_stretch_ends_the_sooner_the_more_rows_have_lost(rows: int, steps: int) -> None:
    stretch = Stretch()
    stretch.begin(rows, tokens=3.0, cost=1.6)
    plan = Plan(0, [], [Row(slot, 10, 3, [], True, 2) for slot in range(rows)])
    for step in range(1, steps + 1):
        assert stretch.left
        stretch.take_in(plan, Outcome(0, [[0]] * rows), step)
    assert not stretch.left


def test_some_right_drafts_pay_while_a_gpu_is_not_full() -> None:
    world = World([0.5] * 64, gpu)
    assert rate_of(world) > 1.1 * 64 / gpu(64, 0)


def test_where_drafts_are_nearly_free_they_pay() -> None:
    assert rate_of(World([0.7], flat)) > 2.2 / flat(1, 0)
    assert rate_of(World([0.9], flat)) > 3.5 / flat(1, 0)


def test_a_search_that_costs_more_than_it_finds_is_given_up() -> None:
    world = World([0.05], flat)
    world.search = 0.3
    assert rate_of(world, 3000) > 0.97
    world = World([0.0], lambda rows, drafts: 1.0)
    world.search = 0.3
    assert rate_of(world, 3000) > 0.97


def test_one_slow_step_rules_no_length_out() -> None:
    """The first step of each length compiles something."""
    seen: set[int] = set()

    def seconds(rows: int, drafts: int) -> float:
        slow = 0 if drafts in seen else 30
        seen.add(drafts)
        return flat(rows, drafts) + slow

    world = World([0.95], seconds)
    world.run(300)
    lengths = [lengths[0] for lengths in world.run(100)]
    assert sum(lengths) / len(lengths) > MOST - 1


def test_a_few_tries_do_not_show_what_drafts_of_all_cost() -> None:
    world = World([0.0] * 32, flat)
    for tries in [0] * 5 + [5] * 10:
        world.drafting.begin(32, 0, 4096)
        world.now += 1 + 0.001 * tries
        drafts = [int(row < tries) for row in range(32)]
        rows = [Row(row, 10, 1 + count, [], True, count) for row, count in enumerate(drafts)]
        plan = Plan(0, [], rows)
        world.drafting.ahead = plan
        world.drafting.measure(plan, Outcome(0, [[0]] * 32), last=False)
    (trial,) = world.drafting._timing._payoffs.values()
    assert trial.costs.cost(1) == DraftCosts().cost(1)


def test_a_machine_that_gets_slower_goes_on_with_drafts() -> None:
    """What plain steps took before says nothing then."""
    world = World([0.7], lambda rows, drafts: 1 + 0.3 * drafts)
    drafting = 0
    for turn in range(40):
        factor = (1, 1.6)[turn % 2]
        world.seconds = lambda rows, drafts, by=factor: by * (1 + 0.3 * drafts)
        drafting += sum(drafts > 0 for (drafts,) in world.run(50))
    assert drafting > 0.9 * 2000


def test_what_was_slow_is_tried_again() -> None:
    world = World([0.95], lambda rows, drafts: 1 + 9 * (drafts > 0))
    world.run(100)
    world.seconds = flat
    world.run(1500)
    lengths = [lengths[0] for lengths in world.run(100)]
    assert sum(lengths) / len(lengths) > MOST - 2


@pytest.mark.parametrize("users", [1, 4, 64])
def test_short_requests_without_good_drafts_try_few(users) -> None:
    """A step with a draft takes twice the time of one without."""
    world = World([0.02] * users, lambda rows, drafts: 1 + (drafts > 0))
    world.run(100)
    before, since = world.tokens, world.now
    for turn in range(100):
        world.seqs = [Sequence(_request(f"{turn} {index}")) for index in range(users)]
        world.run(24)
    assert (world.tokens - before) / (world.now - since) > 0.97 * users


def test_each_sequence_has_a_length_of_its_own() -> None:
    world = World([0.95, 0.0, 0.95, 0.0], lambda rows, drafts: 1 + 0.05 * drafts)
    world.run(100)
    found = world.run(200)
    good = sum(lengths[0] + lengths[2] for lengths in found)
    bad = sum(lengths[1] + lengths[3] for lengths in found)
    # Of 2400; drafts rest now and then, as what the good ones gain is little beside their price.
    assert good > 1700 and bad < 170


def test_rates_are_learned_and_forgotten() -> None:
    acceptance = Acceptance()
    assert acceptance.rates(0.5) == (0.5, 0.5)
    for _ in range(50):
        acceptance.learn(judge(4, 4))
    assert min(acceptance.rates(0.5)) > 0.9
    for _ in range(100):
        acceptance.learn(judge(4, 1))
    assert acceptance.rates(0.5).first > 0.9 > 0.2 > acceptance.rates(0.5).following
    for _ in range(100):
        acceptance.learn(judge(4, 0))
    assert max(acceptance.rates(0.5)) < 0.2


@given(first=st.floats(0, 1), following=st.floats(0, 1), drafts=st.integers(1, 20))
def test_tokens_of_a_chain(first: float, following: float, drafts: int) -> None:
    expected = 1 + sum(first * following**index for index in range(drafts))
    assert Rates(first, following).tokens(drafts) == pytest.approx(expected, rel=1e-9)


@given(drafts=st.integers(1, 20), data=st.data())
def test_drafts_that_count(drafts: int, data: st.DataObject) -> None:
    """Those up to the first wrong one, first ones by themselves."""
    accepted = data.draw(st.integers(0, drafts))
    judged = judge(drafts, accepted)
    assert judged.rows + judged.tried == min(drafts, accepted + 1)
    assert judged.right + judged.accepted == accepted
    assert pooled([judged, judged]) == Judged(*(2 * count for count in judged))


def test_drafts_that_are_right_for_long_or_not_at_all_get_long() -> None:
    """Text that is found again; one rate would be 0.83, and one draft the best."""
    world = World([0.0], lambda rows, drafts: 2.0 + 0.01 * drafts if drafts else 1.0)
    world.chains = lambda rng: MOST if rng.random() < 0.45 else 0
    world.run(1200)
    lengths = [lengths[0] for lengths in world.run(200)]
    assert statistics.mean(lengths) > MOST - 2


def test_others_are_believed_until_own_evidence_says_otherwise() -> None:
    acceptance, prior = Acceptance(), Rates(0.45, 0.45)
    for outcome in (0, 1, 0, 0, 1, 0, 1, 0):
        acceptance.learn(judge(1, outcome))
    assert acceptance.likely(prior, 2.0) == prior
    for _ in range(60):
        acceptance.learn(judge(1, 0))
    assert acceptance.likely(prior, 2.0).first < 0.2
    # It makes no difference when it is taken in.
    for _ in range(4):
        for _ in range(15):
            acceptance.learn(judge(1, 1))
        acceptance.rest(0)
    assert acceptance.likely(prior, 2.0).first > 0.75
    assert acceptance.likely(prior, 2.0).following == 0.45


def test_what_was_known_fades_while_no_drafts_are_tried() -> None:
    acceptance, prior = Acceptance(), Rates(0.8, 0.8)
    for _ in range(30):
        acceptance.learn(judge(1, 0))
    assert acceptance.likely(prior, 2.0).first < 0.3
    for _ in range(300):
        acceptance.rest()
    assert acceptance.likely(prior, 2.0) == prior


def test_tries_wait_twice_as_long_until_a_draft_is_right() -> None:
    acceptance = Acceptance()

    def waits() -> int:
        acceptance.tries()
        count = 0
        while not acceptance.may_try():
            acceptance.rest()
            count += 1
        return count

    first = waits()
    acceptance.learn(judge(1, 0))
    assert [waits(), waits()] == [2 * first, 4 * first]
    acceptance.learn(judge(1, 1))
    assert waits() == first


def test_what_preparing_a_sequence_takes_counts() -> None:
    """Drafts that pay step by step do not pay for requests that are over too soon."""
    world = World([0.7], flat)
    world.preparation = 30.0
    plain = 20 * flat(1, 0)
    times = [world.drain(20) for _ in range(200)]
    assert sum(times[-100:]) < 1.1 * 100 * plain


@pytest.mark.parametrize("before", [0.0, 0.5, 0.9])
def test_useless_drafts_of_one_user_cost_little(before: float) -> None:
    world = World([before], gpu)
    world.drain(128)
    world.drain(128)
    world.rates = [0.0]
    assert world.drain(128) < 1.03 * 128 * gpu(1, 0)


def test_a_batch_that_has_shown_nothing_risks_little() -> None:
    """Many behind others whose drafts were right, on a device where each row takes time."""
    tokens, milliseconds = (64, 128, 256, 512), (5.0, 6.5, 10.0, 18.0)

    def busy_with_rows(rows: int, drafts: int) -> float:
        return float(np.interp(rows, tokens, milliseconds))

    for seed in range(3):
        world = World([0.9] * 64, busy_with_rows)
        world.rng = random.Random(seed)
        world.prompt = 4
        assert sum(world.drain(128) for _ in range(3)) < 0.8 * 3 * 128 * milliseconds[0]
        world.rates = [0.0] * 64
        assert world.drain(128) < 128 * milliseconds[0] / 0.97


def test_where_nobody_drafts_few_steps_ask() -> None:
    world = World([0.0] * 16, gpu)
    world.run(200)
    asked = []
    for _ in range(100):
        world.step()
        asked.append(world.drafting.asks)
    assert 2 < sum(asked) < 20


@pytest.mark.parametrize("users", [1, 16])
def test_where_drafts_pay_few_steps_look(users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at every sequence may take the host as long as a plain step."""
    world, looks = World([0.9] * users, flat), []
    look = Drafting._look
    monkeypatch.setattr(Drafting, "_look", lambda *args: looks.append(look(*args)))
    world.run(200)
    looks.clear()
    assert all(min(lengths) > 0 for lengths in world.run(270) if any(lengths))
    assert 270 / 17 <= len(looks) < 270 / 9
    # Whoever finds that they are wrong looks at once.
    world.rates = [0.0] * users
    looks.clear()
    world.run(8)
    assert looks


def test_the_last_step_of_all_takes_no_longer_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it, which were to be measured with steps that do not come, have their own."""
    world, costs = World([0.9], flat), []
    world.run(100)
    while world.drafting._stretch.ended < 4:
        world.step()
    add = DraftCosts.add
    monkeypatch.setattr(
        DraftCosts,
        "add",
        lambda self, mean, cost, **how: costs.append(cost) or add(self, mean, cost, **how),
    )
    world.last = True
    world.step()
    assert costs == pytest.approx([flat(1, MOST)] * 2)


def test_nobody_drafts_again_who_was_not_seen() -> None:
    world = World([0.9] * 2, flat, watches=True)
    world.run(100)
    while not world.drafting._stretch.left:
        world.step()
    world.seqs[0].watch -= 1
    world.step()
    assert [row.propose > 0 for row in world.rows] == [False, True]


def prepared(users: int, rate: float, cost: float, preparation: float) -> World:
    """Steps with drafts all cost the same, and beginning to draft for a sequence costs as well."""
    world = World(
        [rate] * users, lambda rows, drafts: cost + 0.05 * drafts / users if drafts else 1
    )
    world.preparation = preparation / users
    return world


@pytest.mark.parametrize("watches", [False, True])
def test_where_nobody_drafts_few_steps_look_at_the_clock(watches: bool) -> None:
    world = World([0.0], flat, watches=watches)
    world.run(4000)
    looked = 0

    def clock() -> float:
        nonlocal looked
        looked += 1
        return world.now

    world.drafting._timing._clock = clock
    world.run(640)
    assert 0 < looked < 640 / 5


def test_who_comes_is_asked_though_nobody_looked() -> None:
    world = World([0.0], flat)
    world.run(4000)
    while not world.drafting._nap.left > drafting._SHORTEST_NAP:
        world.step()
    world.rates = [0.0, 0.95]
    world.seqs.append(Sequence(_request("new")))
    world.waiting.append(world.seqs[-1])
    assert all(drafts[1] for drafts in world.run(40)[20:])


def test_a_machine_that_gets_slower_while_nobody_looks_is_noticed() -> None:
    world = World([0.0], flat)
    world.run(4000)
    world.seconds = lambda rows, drafts: 3 * flat(rows, drafts)
    world.run(640)
    assert world.drafting._timing.baseline.seconds(1) == pytest.approx(3)


@pytest.mark.parametrize("watches", [False, True])
def test_steps_that_get_a_block_are_among_those_measured_as_often_as_among_all(
    watches: bool,
) -> None:
    world = World([0.0], flat, watches=watches)
    world.run(4000)
    steps = itertools.count()
    world.seconds = lambda rows, drafts: 5.0 if next(steps) % 16 == 0 else 1.0
    world.run(800)
    believed = []
    for _ in range(40):
        world.run(100)
        baseline = world.drafting._timing.baseline
        believed.append((baseline._unseen if watches else baseline.plain).seconds(1))
    assert statistics.median(believed) == pytest.approx(1.25, abs=0.05)


def test_a_step_of_nobody_has_a_price() -> None:
    """As is planned when all have left, while their last step still runs."""
    baseline = Baseline()
    baseline.add_unseen(1, 1.0, 8)
    for _ in range(3):
        baseline.plain.add(1, 1.5)
    assert baseline.price(0) == baseline.price(1) == pytest.approx(0.5)


@pytest.mark.parametrize("cold", [False, True])
def test_what_passes_while_nobody_looks_is_no_plain_step(cold: bool) -> None:
    """Steps that were captured first, or a long prompt."""
    world = World([0.0], flat)
    world.run(4000)
    row = Row(0, 0, 1 if cold else 100, [], True)
    plan = Plan(0, [], [row])
    for _ in range(300):
        world.drafting.begin(1, 0, 4096)
        world.now += 50
        world.drafting.ahead = plan
        world.drafting.measure(plan, Outcome(0, [[0]], cold=cold), last=False)
    assert world.drafting._timing.baseline.seconds(1) == pytest.approx(1)


@pytest.mark.parametrize("slow", [0, 6])
def test_prompts_in_flight_are_no_part_of_what_is_measured_together(slow: int) -> None:
    """Nor are the first steps behind them, which find the host's caches full of other things."""
    world = World([0.0], lambda rows, drafts: flat(rows, drafts) * 1e-4)
    world.prompt, world.reading, world.idles = 100, 50e-4, True
    since_prompt = 0

    def executor(plan: Plan) -> tuple[bool, float]:
        nonlocal since_prompt
        since_prompt = 0 if plan.newcomers else since_prompt + 1
        return False, 1e-4 * (0 < since_prompt <= slow)

    world.executor = executor
    measure = world.drafting.measure
    flight: list[tuple[Plan, Outcome, float]] = []

    def ends_behind_the_next_plan(plan: Plan, outcome: Outcome, *, last: bool) -> None:
        flight.append((plan, outcome, world.now))
        now = world.now
        while len(flight) > 1 - last:
            plan, outcome, world.now = flight.pop(0)
            measure(plan, outcome, last=last and not flight)
        world.now = now

    world.drafting.measure = ends_behind_the_next_plan
    timing, together = world.drafting._timing, []
    plain_one = timing._plain_one

    def take_in(rows: int, seconds: float, *, shown: bool, steps: int = 1) -> None:
        if steps > 1:
            together.append(seconds)
        plain_one(rows, seconds, shown=shown, steps=steps)

    timing._plain_one = take_in
    for _ in range(60):
        world.drain(60)
    assert len(together) > 10
    assert max(together) == pytest.approx(1e-4)


def test_a_look_in_vain_is_all_that_is_not_measured_together() -> None:
    world = World([0.0], flat)
    world.run(4000)
    looks, awake = 0, 0
    for _ in range(4000):
        left = world.drafting._nap.left
        world.step()
        looks += world.drafting._timing.looks
        awake += world.drafting._nap.left >= left
    assert looks > 20
    # A few drafts are tried.
    assert awake < 2.5 * looks


def test_a_step_that_fails_where_nobody_looks_leaves_the_next_one_alone() -> None:
    """A failed step is not measured, and the next one may be of another kind."""
    world = World([0.0], flat)
    world.run(4000)
    while world.drafting._nap.left != 1:
        world.step()
    world.drafting.begin(1, 0, 4096)
    world.drafting.begin(1, 1, 4096)
    measured: list[int] = []
    together = world.drafting._timing.measure

    def measure(*args: object, **more: object) -> None:
        measured.append(more["together"])
        together(*args, **more)

    world.drafting._timing.measure = measure
    world.drafting.measure(Plan(0, [], [Row(0, 0, 100, [], True)]), Outcome(0, [[0]]), last=False)
    assert measured == [1]


def test_who_leaves_ends_what_is_measured_together() -> None:
    """So that short requests of many are measured as well."""
    world = World([0.0] * 8, flat)
    world.run(4000)
    world.seconds = lambda rows, drafts: 4 * flat(rows, drafts)
    for _ in range(60):
        world.drain(40)
    assert world.drafting._timing.baseline.seconds(8) == pytest.approx(4)


def test_preparation_that_pays_later_is_waited_for() -> None:
    world = prepared(1, rate=0.75, cost=1.5, preparation=15)
    # The first attempts take all that may be lost so early.
    world.run(400)
    assert rate_of(world) > 1.5


@pytest.mark.parametrize("users", [1, 16])
@pytest.mark.parametrize(("rate", "cost"), [(0.6, 2.2), (0.75, 3.2), (0.6, 3.2)])
def test_attempts_that_need_preparation_lose_little(users: int, rate: float, cost: float) -> None:
    """As with a draft model beside a small one, where the host takes longer than the device."""
    world = prepared(users, rate, cost, preparation=20)
    # What an engine may lose in the beginning is used up.
    world.run(1000)
    before, since = world.tokens, world.now
    world.run(6000)
    assert (world.tokens - before) / users / (world.now - since) > 0.97


@pytest.mark.parametrize("preparation", [3, 20, 60])
@pytest.mark.parametrize("users", [1, 16])
@pytest.mark.parametrize(("rate", "cost"), [(0.6, 2.2), (0.75, 3.2)])
def test_batches_that_need_preparation_lose_little(
    users: int, rate: float, cost: float, preparation: int
) -> None:
    """Batch by batch, of new sequences each time: what is lost is made up for before more is."""
    world = prepared(users, rate, cost, preparation=max(preparation, 3 * users))
    # What an engine may lose in the beginning is used up.
    turns = [world.drain(96) for _ in range(120)][40:]
    assert 96 / statistics.mean(turns) > 0.97


def test_preparation_for_a_few_steps_ends_when_much_is_owed() -> None:
    """Batches that come to a size of steps three at a time, and never see what drafts give."""
    payoff, drafted = Payoff(), 0
    for _ in range(60):
        payoff.begin(96, unmeasured=False)
        payoff.expect(Rates(0.5, 0.5), MOST, MOST, PROMISE)
        if payoff.plain:
            continue
        drafted += 1
        for tokens, cost in ((1.0, 8.6), (1.5, 3.1), (1.5, 2.6)):
            payoff.loses(tokens, cost, begins=True)
        payoff.rested(1.0)
    assert 3 <= drafted <= 15


def test_steps_behind_drafts_are_not_plain_ones() -> None:
    """They verify, and take longer: compared with them, drafts that lose would seem to pay."""
    world = World([0.6] * 4, lambda rows, drafts: 3.2 if drafts else 1.0)
    world.behind = 2.5
    world.run(300)
    before, since = world.tokens, world.now
    world.run(2000)
    assert (world.tokens - before) / 4 / (world.now - since) > 0.97


def by_draft(rows: int, drafts: int) -> float:
    return 1 + 0.12 * drafts


def test_a_search_left_out_is_no_reason_to_measure_plain_steps() -> None:
    world = World([0.9], by_draft)
    world.run(200)
    quiet = 0
    for step in range(300):
        if step % 10 == 0:
            # Three searches in vain, so that the next is left out.
            for found in (True, False, False, False):
                world.seqs[0].drafting.sought(found=found)
        world.step()
        quiet += not world.rows[0].propose
    assert 30 <= quiet < 150


def test_the_first_of_several_steps_with_drafts_shows_what_they_take_at_most() -> None:
    costs = DraftCosts()
    for _ in range(9):
        costs.add(2, 6.0, goes_on=False)
    assert costs.cost(2) < 1.5
    for _ in range(9):
        costs.add(2, 2.0, goes_on=True)
        costs.add(2, 6.0, goes_on=False)
    assert costs.cost(2) == 2.0
    for _ in range(9):
        costs.add(2, 1.2, goes_on=False)
    assert costs.cost(2) == 1.2


def test_a_search_left_out_is_not_taken_for_drafts_that_lose() -> None:
    """Whoever has found nothing looks again when it is time, and not when it is asked again."""
    world = World([0.95], by_draft)
    world.run(100)
    (seq,) = world.seqs
    for skipped in (1, 2, 4):
        seq.drafting.sought(found=False)
        # Drafts stand ready for one more step.
        lengths = [length for (length,) in world.run(skipped + 3)]
        assert lengths == [MOST] + [0] * skipped + [MOST] * 2


@pytest.mark.parametrize("users", [1, 8])
@pytest.mark.parametrize("cost", [lambda rows, drafts: 1 + 0.002 * drafts, lambda rows, drafts: 2])
def test_no_search_is_left_out_where_it_costs_nothing(users: int, cost) -> None:
    """A step takes as long whoever drafts in it."""
    world = World([0.95] * users, lambda rows, drafts: cost(rows, drafts) if drafts else 1.0)
    world.run(100)
    assert world.drafting._whole
    for _ in range(40):
        for seq in world.seqs:
            seq.drafting.sought(found=False)
        world.step()
        if not world.drafting._now.plain:
            assert all(row.propose for row in world.rows)


def test_what_one_draft_takes_may_be_what_all_take() -> None:
    """As on a device that waits for its host: the first draft alone would never pay."""
    world = World([0.9], lambda rows, drafts: 2.2 if drafts else 1.0)
    assert rate_of(world) > 1.8


@pytest.mark.parametrize("cost", [0.0, 0.2, 0.5])
def test_steps_that_seem_to_take_nothing_still_have_a_speed(cost: float) -> None:
    """Half a plain step where half the rows have a draft would be none where all do."""
    costs = DraftCosts()
    for _ in range(4):
        costs.begin(1)
        costs.add(0.5, cost, goes_on=True)
    assert costs.cost(1) > 0
    assert costs.trial(lambda drafts, cost: (1 + drafts) / cost, MOST, MOST, PROMISE) >= 0


def test_a_hiccup_in_a_try_does_not_end_trying() -> None:
    world = World([0.0], gpu)
    world.run(100)
    hiccups = [50_000.0]

    def once(rows: int, drafts: int) -> float:
        return gpu(rows, drafts) + (hiccups.pop() if drafts and hiccups else 0.0)

    world.seconds = once
    world.run(300)
    assert not hiccups
    tried = world.drafting.tried
    world.run(2500)
    assert world.drafting.tried > tried


def test_an_engine_whose_first_steps_were_slow_finds_out_what_plain_ones_take() -> None:
    """Nothing is captured yet when plain steps are measured first."""
    steps = 0

    def seconds(rows: int, drafts: int) -> float:
        nonlocal steps
        steps += 1
        return (20.0 if steps <= 6 else 1.0) * (3.0 if drafts else 1.0)

    world = World([0.6], seconds)
    assert rate_of(world, 1000) > 0.97


def test_plain_steps_measured_at_a_bad_time_are_soon_measured_anew() -> None:
    """Drafts that have lost seem to pay when plain steps have been slow for a while."""
    meanwhile = behind = 0
    for seed in range(24):
        slow = False

        def seconds(rows: int, drafts: int) -> float:
            return 0.0015 if drafts else 0.002 if slow else 0.001  # noqa: B023

        world = World([0.9], seconds)
        world.rng = random.Random(seed)
        world.run(1200)  # Long enough for plain steps to be believed for long.
        world.rates = [0.25]
        world.run(1500)
        slow = True
        meanwhile += sum(drafts > 0 for (drafts,) in world.run(300))
        slow = False
        behind += sum(drafts > 0 for (drafts,) in world.run(400))
    assert meanwhile > 3000 and behind < 3000


@pytest.mark.parametrize("cost", [2.5, 3.5])
@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("users", [1, 4, 16, 64])
def test_steps_behind_prompts_are_not_plain_ones(users: int, rate: float, cost: float) -> None:
    """The host is busy with who has come: by those, drafts that lose would seem to pay."""
    busy = (2.0, 1.5)
    since_prompts = len(busy)

    def behind_prompts(plan: Plan) -> tuple[bool, float]:
        nonlocal since_prompts
        if any(row.count > 1 + row.drafts for row in plan.rows):
            since_prompts = 0
            return False, 0.0
        since_prompts += 1
        return False, (0.0, *busy, 0.0)[min(since_prompts, 3)]

    seeds = range(3)
    first = later = 0.0
    for seed in seeds:
        world = World([rate] * users, lambda rows, drafts: cost if drafts else 1.0)
        world.rng = random.Random(seed)
        world.prompt, world.reading = 20, 0.5
        world.executor = behind_prompts
        plain = 96 + world.reading * users + sum(busy)
        times = [world.drain(96) for _ in range(24)]
        first += sum(times[:10])
        later += sum(times[10:])
    assert first < 1.03 * 10 * plain * len(seeds)
    assert later < 1.02 * 14 * plain * len(seeds)


def test_who_finds_no_drafts_looks_for_them_more_rarely() -> None:
    acceptance = Acceptance()

    def looked(draws: int, *, found: bool) -> int:
        count = 0
        for _ in range(draws):
            if not acceptance.skips():
                count += 1
                acceptance.sought(found=found)
        return count

    # Draws 0, 2, 5, 10 and every fifth.
    assert looked(36, found=False) == 9
    assert looked(34, found=False) == 6
    assert looked(5, found=True) == 5
    assert looked(20, found=True) == 20


@given(draws=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_draws_that_nobody_asked_about_are_skipped_as_well(draws: list[int]) -> None:
    """Whoever is asked only now and then looks no earlier, and at once when it is time."""
    acceptance, at, next_search = Acceptance(), 0, 0
    step = 1
    for count in draws:
        at += count
        skipped = acceptance.skips(count)
        assert skipped == max(next_search - at, 0)
        if not skipped:
            acceptance.sought(found=False)
            next_search = at + 1 + min(step, 4)
            step *= 2


def test_cold_steps_teach_nothing() -> None:
    """Plain steps run without what is captured for them as long as all others have drafts."""
    plain = 0

    def executor(plan: Plan) -> tuple[bool, float]:
        nonlocal plain
        plain += plan.plain
        cold = plan.plain and plain <= 30
        return cold, 20.0 * cold

    world = World([0.6], lambda rows, drafts: 2.5 if drafts else 1.0)
    world.executor = executor
    world.run(500)
    before, since = world.tokens, world.now
    world.run(4000)
    assert (world.tokens - before) / (world.now - since) > 0.97


def test_showing_is_part_of_the_price() -> None:
    """Drafts that pay where all steps are seen, and do not pay for their being seen."""
    world = World([0.3], lambda rows, drafts: 1.2 if drafts else 1.0, watches=True)
    world.executor = lambda plan: (False, 0.4 * plan.shown)
    for _ in range(30):
        world.drain(96)
    taken = [world.drain(96) for _ in range(100)]
    assert sum(taken) < 1.03 * 96 * 100


@pytest.mark.parametrize("prompts_first", [False, True])
def test_preparation_beside_prompts_counts(prompts_first: bool) -> None:
    """A draft model reads a prompt in the step that does; the answer is over too soon for that."""
    world = World([0.7], flat)
    world.prompt, world.reading, world.preparation = 100, 10.0, 30.0
    world.idles = prompts_first
    for _ in range(30):
        world.drain(20)
    taken = [world.drain(20) for _ in range(200)]
    assert sum(taken) < 1.03 * 200 * (20 + world.reading)


@pytest.mark.parametrize(("fits", "longest"), [(-1, 0), (0, 0), (1, 1), (1.5, 2), (4, 2)])
def test_no_length_is_tried_that_few_rows_may_have(fits: float, longest: int) -> None:
    """Drafts of some rows would show a cost that steps of that length never have."""
    payoff = Payoff()
    tried = []
    for _ in range(40):
        payoff.begin(LOOK_AGAIN, unmeasured=False)
        payoff.expect(Rates(0.9, 0.9), 4, fits, PROMISE)
        tried.append(payoff.length)
        if payoff.length == 1:
            payoff.costs.add(1.0, 1.1, goes_on=True)
    assert max(tried) == longest


@pytest.mark.parametrize("paid", [False, True])
def test_drafts_that_have_paid_may_soon_do_so_again(paid: bool) -> None:
    """Whatever is owed, once; those that have not, or fail again, rest until it is made up for."""
    payoff = Payoff()
    payoff.expect(Rates(0.5, 0.5), 4, 4, PROMISE)
    for _ in range(24 * paid):
        payoff.loses(3.0, 1.0, begins=False)
    rests = []
    for _ in range(2):
        payoff._losing.left = -20.0
        while not payoff.loses(1.0, 4.0, begins=False):
            pass
        rests.append(payoff.pause)
    assert (rests[0] <= 64) == paid
    assert rests[1] > 2000


def test_slower_plain_steps_explain_why_drafts_lost_and_not_why_nobody_has_any() -> None:
    waits, lost = Payoff(500), _lost(1.3, owed=20.0)
    for payoff in (waits, lost):
        payoff.rested(1.5)
    assert waits.untried() == waits.pause == 500
    assert lost.untried() == 0 < lost.pause < 10


def test_how_long_nobody_tries_drafts_is_not_guessed_from_steps_of_another_size() -> None:
    """One sequence alone had long steps, as when an engine begins; many have short ones."""
    world = World([0.9], lambda tokens, drafts: 0.002)
    world.drain(8)
    world.seconds = lambda tokens, drafts: 0.0002 + 0.001 * (drafts > 0)
    world.rates, world.seqs = [0.9] * 16, _sequences(16, 1)
    world.waiting = list(world.seqs)
    assert not any(map(any, world.run(1000)))
    assert any(map(any, world.run(1000)))


@pytest.mark.parametrize(("users", "wait"), [(8, 1400), (32, 1400), (64, 2800)])
def test_many_wait_longer_for_their_first_drafts(users: int, wait: int) -> None:
    world = World([0.9] * users, lambda tokens, drafts: 0.0002 + 0.001 * (drafts > 0))
    first = next(step for step in itertools.count() if any(world.step()))
    assert wait <= first <= wait + 200


@pytest.mark.parametrize(("cost", "again"), [(2.0, True), (4.0, False)])
def test_slower_plain_steps_end_a_pause_only_where_they_explain_it(
    cost: float, again: bool
) -> None:
    """Or where hardly anything is owed: plain steps right behind drafts often look slower, and
    attempt after attempt would lose what the pauses are to make up for."""
    payoff = _lost(cost, owed=20.0)
    payoff.rested(2.5)
    assert (payoff.pause < 10) == again
    assert again or payoff.pause > 2000


def test_a_first_failure_may_be_tried_again_on_any_slower_plain_step() -> None:
    payoff = _lost(4.0, owed=0.0)
    payoff.rested(1.2)
    assert 0 < payoff.pause < 10


def test_attempts_that_nobody_saw_the_gain_of_are_ever_more_seldom() -> None:
    """All their steps prepared something; what such take may come back, and at first it is owed."""
    payoff = Payoff()
    payoff.expect(Rates(0.5, 0.5), 4, 4, PROMISE)

    def rest() -> int:
        payoff._losing.left = -60.0
        while not payoff.loses(1.0, 4.0, begins=True):
            pass
        return payoff.pause

    assert [rest() for _ in range(3)] == [600, 1200, 2400]
    for _ in range(24):
        payoff.loses(3.0, 1.0, begins=False)
    assert rest() <= 64
    assert rest() == 600


def _lost(cost: float, *, owed: float) -> Payoff:
    """One that has owed so much when drafts of one token a step have failed."""
    payoff = Payoff()
    payoff.expect(Rates(0.5, 0.5), 4, 4, PROMISE)
    payoff._losing.left = -owed
    while not payoff.loses(1.0, cost, begins=False):
        pass
    return payoff


@pytest.mark.parametrize("users", [4, 16])
def test_one_step_that_takes_very_long_is_forgiven(users: int) -> None:
    """Drafts that are right go on at once when somebody gets some; it was the machine."""
    hiccups = [400.0]

    def once(rows: int, drafts: int) -> float:
        return gpu(rows, drafts) + (hiccups.pop() if drafts and hiccups else 0.0)

    world = World([0.0] * users, once)
    world.drain(128)
    assert not hiccups
    world.rates = [0.9] * users
    assert world.drain(128) < 128 * gpu(users, 0) / 1.5


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.6, 0.7])
def test_batches_of_many_lose_little_where_drafts_hardly_pay(rate: float) -> None:
    """Each ends with whoever has the least luck, in steps that take nearly as long."""
    points = [(1, 4.4), (16, 4.5), (32, 4.8), (64, 5.5), (128, 8.1), (192, 11.3), (320, 19.0)]

    def nearly_full(rows: int, drafts: int) -> float:
        return float(np.interp(rows, *zip(*points, strict=True)))

    taken = 0.0
    for seed in range(4):
        world = World([rate] * 64, nearly_full)
        world.rng = random.Random(seed)
        taken += sum(world.drain(48) for _ in range(12))
    assert 4 * 12 * 48 * nearly_full(64, 0) / taken > 0.97


@pytest.mark.parametrize(
    ("asking", "trying", "apart"), [(1, 1, 8), (3, 3, 24), (4, 4, 32), (9, 4, 32)]
)
def test_tries_are_the_further_apart_the_more_sequences_try(asking, trying, apart) -> None:
    payoff, tried = Payoff(), []
    for step in range(200):
        payoff.begin(1, unmeasured=False)
        payoff.expect(Rates(0.0, 0.0), 4, 4, PROMISE)
        if payoff.may_try:
            assert sum(payoff.tries() for _ in range(asking)) == trying
            tried.append(step)
    assert tried == list(range(tried[0], 200, apart))
    assert tried[0] <= 1
