"""How many drafts are asked for: what makes tokens come fastest, by a clock of the test's own."""

import random

import pytest

from quire.core.cache.manager import CacheManager
from quire.core.contracts.scheduler import SchedulerSettings
from quire.core.request import Request, SamplingParams
from quire.core.schedule.acceptance import Acceptance
from quire.core.schedule.drafting import Drafting
from quire.core.sequence import Sequence
from quire.core.step import Delta, Row

MOST = 6


class World:
    """Sequences whose drafts are accepted at a rate, and steps that take what a formula says."""

    def __init__(self, rates: list[float], seconds) -> None:
        limits = SchedulerSettings(
            num_blocks=9000, block_size=16, max_num_seqs=64, max_num_batched_tokens=4096,
            max_model_len=100_000, max_drafts=MOST, max_draws=512,
        )  # fmt: skip
        cache = CacheManager(9000, 16, prefix_caching=False)
        self.now = 0.0
        self.drafting = Drafting(limits, cache, lambda: self.now)
        self.seconds = seconds
        self.search = 0.0
        self.rates = rates
        self.rng = random.Random(0)
        self.tokens = 0
        self.seqs = [Sequence(_request(str(index))) for index in range(len(rates))]
        self.lengths = [0] * len(rates)

    def step(self) -> list[int]:
        self.drafting.begin(len(self.seqs), 0, 4096)
        rows = []
        for seq in self.seqs:
            drafts = self.drafting.take(seq, 10, 4096)
            rows.append(Row(seq.slot, 10, 1 + drafts, [], True, drafts))
            seq.num_ready = self.drafting.propose(seq, 10)
        tokens = 0
        self.now += self.seconds(sum(row.count for row in rows), sum(row.drafts for row in rows))
        self.now += self.search * any(seq.num_ready for seq in self.seqs)
        for seq, row, rate in zip(self.seqs, rows, self.rates, strict=True):
            accepted = 0
            while accepted < row.drafts and self.rng.random() < rate:
                accepted += 1
            tokens += 1 + accepted
            delta = Delta("", [0] * (1 + accepted), num_drafts=row.drafts, num_accepted=accepted)
            self.drafting.learn(seq, row, delta)
        self.tokens += tokens
        self.drafting.measure(rows, tokens, last=False)
        return [row.drafts for row in rows]

    def run(self, steps: int) -> list[list[int]]:
        return [self.step() for _ in range(steps)]


def _request(name: str) -> Request:
    params = SamplingParams(max_tokens=90_000)
    return Request(request_id=name, prompt_token_ids=[1], params=params, seed=0, max_tokens=90_000)


def flat(rows: int, drafts: int) -> float:
    """A device that reads weights: drafts cost two percent each."""
    return 1 + 0.02 * drafts


def busy(rows: int, drafts: int) -> float:
    """A device at the limit of its arithmetic: every row costs the same."""
    return rows


def rate_of(world: World, steps: int = 400) -> float:
    """Tokens a second, once the first steps have taught what there is to learn."""
    world.run(100)
    before, since = world.tokens, world.now
    world.run(steps)
    return (world.tokens - before) / (world.now - since)


def test_good_drafts_get_long() -> None:
    world = World([0.95], flat)
    world.run(40)
    lengths = [lengths[0] for lengths in world.run(100)]
    assert sum(lengths) / len(lengths) > MOST - 1


def test_the_step_that_admits_a_sequence_proposes_drafts() -> None:
    """What it costs is that of a step with the sequence, of which more is known."""
    world = World([0.9], flat)
    world.run(50)
    world.drafting.begin(0, 1, 4096)
    assert world.drafting.propose(Sequence(_request("new")), 10) == MOST


def test_bad_drafts_are_given_up_and_tried_again() -> None:
    world = World([0.0], flat)
    world.run(40)
    lengths = [lengths[0] for lengths in world.run(2000)]
    assert 0 < sum(lengths) < 40
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
        slow = 0 if drafts in seen else 60
        seen.add(drafts)
        return flat(rows, drafts) + slow

    world = World([0.95], seconds)
    world.run(300)
    lengths = [lengths[0] for lengths in world.run(100)]
    assert sum(lengths) / len(lengths) > MOST - 1


def test_a_few_tries_do_not_show_what_drafts_of_all_cost() -> None:
    world = World([0.0] * 32, flat)
    for tries in [0] * 5 + [1] * 10:
        world.drafting.begin(32, 0, 4096)
        world.now += 1 + 0.001 * tries
        drafts = [int(row < tries) for row in range(32)]
        rows = [Row(row, 10, 1 + count, [], True, count) for row, count in enumerate(drafts)]
        world.drafting.measure(rows, 32, last=False)
    (costs,) = world.drafting._costs.values()
    assert set(costs._medians) == {0}


def test_a_machine_that_gets_slower_goes_on_with_drafts() -> None:
    """What plain steps took before says nothing then."""
    world = World([0.7], lambda rows, drafts: 1 + 0.3 * drafts)
    drafting = 0
    for turn in range(40):
        factor = (1, 1.6)[turn % 2]
        world.seconds = lambda rows, drafts, by=factor: by * (1 + 0.3 * drafts)
        drafting += sum(drafts > 0 for (drafts,) in world.run(50))
    assert drafting > 0.975 * 2000


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
    assert good > 20 * max(1, bad)


def test_a_rate_is_learned_and_forgotten() -> None:
    acceptance = Acceptance()
    assert acceptance.rate(0.5) == 0.5
    for _ in range(50):
        acceptance.learn(4, 4)
    assert acceptance.rate(0.5) > 0.9
    for _ in range(50):
        acceptance.learn(4, 0)
    assert acceptance.rate(0.5) < 0.2
