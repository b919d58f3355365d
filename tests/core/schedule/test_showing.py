"""Which steps a head is shown: few where nobody drafts, and enough to find out when drafts pay."""

import statistics

import pytest

from quire.core.schedule import drafting, showing
from quire.core.schedule.showing import Showing
from quire.core.sequence import Sequence
from quire.core.step import Outcome, Plan, Row
from tests.core.schedule.test_drafting import World, _request, busy, flat, gpu, host


class Stream(World):
    """A world where a sequence that has so many tokens is replaced by a new one."""

    def __init__(
        self, rates: list[float], seconds, *, length: int = 128, watches: bool = True
    ) -> None:
        super().__init__(rates, seconds, watches=watches)
        self.length = length

    def shown(self, steps: int) -> list[bool]:
        """Which of the next steps are."""
        found = []
        for _ in range(steps):
            self.step()
            found.append(self.drafting.showing.shown)
            for index, seq in enumerate(self.seqs):
                if len(seq.token_ids) >= self.length:
                    self.seqs[index] = Sequence(_request("new", max(self.prompt, 1)))
                    self.waiting.append(self.seqs[index])
        return found


@pytest.mark.parametrize("rate", [0.0, 0.03])
@pytest.mark.parametrize("users", [1, 16])
@pytest.mark.parametrize("cost", [gpu, busy])
def test_of_useless_drafts_little_is_shown(users: int, rate: float, cost) -> None:
    world = Stream([rate] * users, cost)
    # Rests get longer until then.
    world.shown(16_000)
    shown = world.shown(20_000)
    assert 0 < sum(shown) < 0.05 * len(shown)


@pytest.mark.parametrize("users", [1, 16])
def test_drafts_that_have_become_right_are_found(users: int) -> None:
    world = Stream([0.0] * users, gpu)
    world.shown(3000)
    world.rates = [0.8] * users
    # A rest, and twice that somebody had to begin for it to end.
    world.shown(showing._PATIENCE * (showing._LONGEST_REST + 2))
    drafted = world.drafting.tried
    assert all(world.shown(500))
    assert world.drafting.tried > drafted + 500 * users


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_drafts_that_pay_are_always_shown(rate: float) -> None:
    world = Stream([rate] * 8, gpu)
    # Once, it is found out what steps take unseen.
    assert sum(world.shown(1000)) > 800
    assert all(world.shown(5000))


def _dear(rates: list[float], turns: int) -> list[float]:
    """Times plain decoding's speed in turns of a small model on a GPU whose steps take two fifths
    longer where they are shown, and half a step longer where there are drafts."""

    def seconds(rows: int, drafts: int) -> float:
        return 1.5 + 0.35 * drafts / len(rates) if drafts else 1.0

    world = World(rates, seconds, watches=True)
    world.executor = lambda plan: (False, 0.4 * plan.shown)
    return [96 / world.drain(96) for _ in range(turns)]


@pytest.mark.parametrize("users", [1, 4, 16])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.35, 0.5])
def test_useless_drafts_are_soon_compared_with_unseen_steps(users: int, rate: float) -> None:
    """Beside steps that are shown they lost a fifth to a third in the first three turns."""
    assert statistics.harmonic_mean(_dear([rate] * users, 10)) > 0.93


def test_drafts_that_gain_less_than_showing_takes_end() -> None:
    """They went on for seven turns at three quarters of plain decoding's speed, as nobody counted
    steps between looks."""
    assert statistics.mean(_dear([0.7] * 16, 7)[4:]) > 0.95


@pytest.mark.parametrize("users", [1, 4])
def test_drafts_that_pay_whatever_showing_takes_are_not_soon_interrupted(users: int) -> None:
    """A rest ends the drafts of all who run, which a short batch does not get back."""
    world = Stream([0.8] * users, flat, length=10**6)
    assert all(world.shown(500))


def test_slow_first_drafts_are_no_reason_to_rest() -> None:
    """As while an executor records them, length by length."""
    recorded = set()

    def seconds(rows: int, drafts: int) -> float:
        if drafts in recorded or not drafts:
            return 1.1 + 0.1 * drafts if drafts else 1.0
        recorded.add(drafts)
        return 20.0

    world = Stream([0.6], seconds)
    assert sum(world.shown(1000)) > 800
    assert all(world.shown(2500))
    before, since = world.tokens, world.now
    world.shown(500)
    assert world.tokens - before > 1.1 * (world.now - since)


def test_unseen_steps_pass_without_a_look_whatever_is_known_of_their_size() -> None:
    """For one user, planning each by itself took a fifth of a small model's step."""
    world = Stream([0.0] * 16, flat, length=10**6)
    world.shown(3000)
    world.seqs, world.rates = world.seqs[:1], [0.0]
    assert not any(world.shown(30))
    assert world.drafting._nap.left


def test_nobody_drafts_who_has_not_seen_every_step() -> None:
    world = Stream([0.0, 0.0], flat, length=10**6)
    world.shown(3000)
    assert not world.shown(1)[0]
    # Nobody new, no end of the rest.
    assert not any(world.shown(showing._PATIENCE * showing._LONGEST_REST))
    world.rates = [0.95, 0.95]
    world.seqs[1] = Sequence(_request("new"))
    world.waiting.append(world.seqs[1])
    assert world.shown(1) == [True]
    blind, sees = 0, 0
    for _ in range(300):
        lengths = world.step()
        blind, sees = blind + lengths[0], sees + lengths[1]
    assert blind == 0 and sees > 300


@pytest.mark.parametrize("users", [1, 4])
def test_nobody_is_shown_steps_in_which_nobody_may_draft_yet(users: int) -> None:
    """Short ones: what is shown before is what it takes to know what they take."""
    world = Stream([0.9] * users, host)
    shown = []
    while not world.drafting.tried:
        shown += world.shown(1)
    assert len(shown) > 2000 and sum(shown[:2000]) < 20


def test_who_runs_where_drafts_have_paid_is_shown_whatever_joins() -> None:
    """Steps of another size begin without drafts, and some of those who run in them have some."""
    world = Stream([0.9], host)
    world.shown(6000)
    assert world.drafting.tried
    world.seqs.append(Sequence(_request("joins")))
    world.waiting.append(world.seqs[-1])
    world.rates.append(0.9)
    world.shown(3)  # Drafts in flight.
    tried = world.drafting.tried
    # But for one look at what they would take unseen, until somebody comes.
    seen = sum(world.shown(500))
    assert seen > 500 - showing._LOOK - world.length and world.drafting.tried == tried


def test_showing_to_the_blind_ends_after_its_patience() -> None:
    world = Stream([0.0], flat, length=10**6)
    world.shown(3000)
    world.shown(showing._PATIENCE * showing._LONGEST_REST)
    # Somebody waits and is not admitted.
    entering = Sequence(_request("waits"))
    world.drafting.begin(1, 1, 4096)
    assert world.drafting.showing.shown and not world.drafting.showing.sees(world.seqs[0])
    assert sum(world.shown(2 * showing._PATIENCE)) <= showing._PATIENCE + drafting._LONGEST_NAP
    assert world.drafting.propose(entering, 10) == 0


def test_drafts_that_wait_while_a_step_goes_unseen_take_what_is_left() -> None:
    """Others may have come since drafts were asked for."""
    world = World([0.9], lambda tokens, drafts: 1.0, watches=True)
    drafting = world.drafting
    while drafting.showing.shown:
        drafting.begin(1, 0, 40)
    world.seqs[0].num_ready = 4
    drafting.begin(39, 0, 40)
    assert drafting.take(world.seqs[0], 10, 39) == 1


def test_what_never_rests_shows_everything() -> None:
    """As where drafting is not adaptive, and everybody drafts always."""
    always = Showing(rests=False)
    seq = Sequence(_request("old"))
    for _ in range(10_000):
        always.begin(idle=True, owed=0, unpriced=False, waiting=True)
        assert always.shown and always.sees(seq)


def test_reading_prompts_is_no_reason_to_rest() -> None:
    """Nobody is there to be drafted for before a prompt has been read."""
    watched = Showing(rests=True)
    for _ in range(10_000):
        watched.begin(idle=False, owed=0, unpriced=False, waiting=False)
        assert watched.shown


def test_a_rest_makes_up_for_prompts_shown_in_vain() -> None:
    """Requests of a long prompt and few tokens: most steps have nobody to draft for."""
    watched = Showing(rests=True)
    shown = 0
    for step in range(1_000_000):
        watched.begin(idle=step % 10 == 0, owed=0, unpriced=False, waiting=True)
        shown += watched.shown
    assert 0.02 < shown / 1_000_000 < 0.04


@pytest.mark.parametrize("watches", [False, True])
def test_drafts_pay_beside_prompts_as_well(watches: bool) -> None:
    """Where requests are short and many, hardly a step is without a prompt."""
    world = Stream([0.9] * 8, flat, length=440, watches=watches)
    world.prompt, world.reading, world.preparation = 400, 1.0, 0.5
    world.shown(2000)
    tried, steps = world.drafting.tried, 1000
    world.shown(steps)
    assert world.drafting.tried - tried > 2 * 8 * steps


def test_tokens_of_drafts_beside_a_prompt_count() -> None:
    """14 tokens of drafts for half of a plain step have lost nothing."""
    world = Stream([0.9] * 8, flat, length=440, watches=False)
    world.prompt, world.reading, world.preparation = 400, 1.0, 0.5
    world.shown(300)
    timing = world.drafting._timing
    payoff = timing.payoff(8)
    drafted = Row(1, 10, 3, [], True, 2)
    plan = Plan(0, [], [Row(0, 0, 400, [], True), *[drafted] * 7])
    usual = timing.baseline.prompts(plan.num_tokens, first=False)
    assert usual is not None
    payoff._losing.add(-10)
    left = payoff._losing.left
    timing.looks = True
    timing.measure(plan, Outcome(0, []), plan, last=False)
    world.now += usual + 0.5
    timing.measure(plan, Outcome(0, [[1], *[[1, 2, 3]] * 7]), plan, last=False)
    assert payoff._losing.left > left
