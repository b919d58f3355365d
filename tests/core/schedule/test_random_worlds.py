"""Requests of any kind beside each other, on a device of a few lines and a clock of its own: each
gets its own tokens, whatever is drafted, aborted, pushed out or fails meanwhile."""

import random
from typing import NamedTuple

import pytest

from quire.core.contracts.scheduler import SchedulerSettings
from quire.core.registry import Registry
from quire.core.request import Request, SamplingParams
from quire.core.schedule.default import DefaultScheduler
from quire.core.schedule.stretch import Stretch
from quire.core.step import Delta, Outcome, Plan

MOST = 8


def token(request: str, position: int) -> int:
    """What a request's token at a position is."""
    return (len(request) * 31 + int(request) * 7 + position) % 1000


class Slot(NamedTuple):
    """What a device keeps of a sequence."""

    request: str
    tokens: list[int]
    drafts: list[int]


class Device:
    """Draws right tokens, verifies drafts, and proposes some that are right as often as said."""

    def __init__(self, rng: random.Random, right: float) -> None:
        self.rng = rng
        self.right = right
        self.slots: dict[int, Slot] = {}
        # Drafts of the step before, by slot.
        self.flying: dict[int, int] = {}

    def run(self, plan: Plan, names: dict[int, str]) -> Outcome:
        for newcomer in plan.newcomers:
            name = names[newcomer.slot]
            self.slots[newcomer.slot] = Slot(name, list(newcomer.token_ids), [])
        outcome = Outcome(plan.step, [[] for _ in plan.rows], cold=self.rng.random() < 0.01)
        for index, row in enumerate(plan.rows):
            if not row.samples:
                continue
            name, tokens, drafts = self.slots[row.slot]
            # The host knows how many there are, or a bound, and by how much that may be too large.
            bound = row.start + row.count - row.drafts
            assert bound - row.slack <= len(tokens) <= bound
            assert row.slack <= self.flying.get(row.slot, 0)
            for place in range(row.drafts + 1):
                tokens.append(token(name, len(tokens)))
                outcome.tokens[index].append(tokens[-1])
                if drafts[place : place + 1] != tokens[-1:]:
                    break
            drafts.clear()
            if row.propose:
                if self.rng.random() < 0.8:
                    drafts += [self._guess(name, len(tokens) + k) for k in range(row.propose)]
                outcome.proposed[index] = len(drafts)
        self.flying = {row.slot: row.drafts for row in plan.rows}
        return outcome

    def _guess(self, name: str, position: int) -> int:
        return token(name, position) if self.rng.random() < self.right else -1


class World:
    """A scheduler with room for few or many, whose steps with drafts take a little longer."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.now = 0.0
        self.dear = rng.choice([1.05, 1.3, 1.7])
        self.device = Device(rng, rng.choice([0.5, 0.9, 1.0]))
        settings = SchedulerSettings(
            num_blocks=rng.choice([60, 120, 4000]),
            block_size=16,
            max_num_seqs=64,
            max_num_batched_tokens=rng.choice([64, 4096]),
            max_model_len=700,
            prefix_caching=rng.random() < 0.5,
            max_drafts=MOST,
            max_draws=rng.choice([64, 600]),
            adaptive=True,
            watches=rng.random() < 0.3,
        )
        policy = Registry().make("policy", "fcfs")
        self.scheduler = DefaultScheduler(settings, policy, clock=lambda: self.now)
        self.wanted: dict[str, list[int]] = {}
        self.got: dict[str, list[int]] = {}
        self.reasons: dict[str, str | None] = {}

    def add(self) -> None:
        name = str(len(self.wanted))
        length, most = self.rng.randint(1, 90), self.rng.randint(1, 400)
        prompt = [token(name, position) for position in range(length)]
        params = SamplingParams(temperature=0, max_tokens=most, ignore_eos=True)
        request = Request(
            request_id=name, prompt_token_ids=prompt, params=params, seed=0, max_tokens=most
        )
        self.scheduler.add(request)
        self.wanted[name] = [token(name, length + position) for position in range(most)]
        self.got[name] = []

    def run(self, users: int) -> None:
        for _ in range(users):
            self.add()
        flight: list[tuple[Plan, Outcome]] = []
        steps = 0
        while self.scheduler.has_work() or flight:
            steps += 1
            if steps < 500 and self.rng.random() < 0.01:
                self.add()
            if self.rng.random() < 0.002:
                self._abort()
            plan = self.scheduler.plan()
            if plan is not None:
                running = self.scheduler._roster.running
                names = {seq.slot: seq.request.request_id for seq in running}
                flight.append((plan, self.device.run(plan, names)))
            while len(flight) > (plan is not None):
                for delta in self._end(*flight.pop(0)):
                    self._hear(delta)
            self.scheduler.check()

    def _end(self, plan: Plan, outcome: Outcome) -> list[Delta]:
        drafts = any(row.drafts or row.propose for row in plan.rows)
        self.now += self.rng.lognormvariate(0, 0.1) * (self.dear if drafts else 1.0)
        if self.rng.random() < 0.001:
            return self.scheduler.fail(plan, "planted")
        return self.scheduler.update(plan, outcome)

    def _abort(self) -> None:
        name = self.rng.choice(list(self.wanted))
        delta = self.scheduler.abort(name)
        if delta is not None:
            self._hear(delta)

    def _hear(self, delta: Delta) -> None:
        self.got[delta.request_id] += delta.token_ids
        if delta.finish_reason is not None:
            self.reasons[delta.request_id] = delta.finish_reason


@pytest.mark.parametrize("users", [1, 3, 16, 40])
def test_each_request_gets_its_own_tokens(users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stretches, begin = [], Stretch.begin

    def count(self: Stretch, running: int, tokens: float, cost: float) -> None:
        stretches.append(running)
        begin(self, running, tokens, cost)

    monkeypatch.setattr(Stretch, "begin", count)
    drafted = 0
    for seed in range(8):
        world = World(seed)
        world.run(users)
        assert set(world.reasons) == set(world.wanted)
        for name, wanted in world.wanted.items():
            got = world.got[name]
            if world.reasons[name] == "length":
                assert got == wanted
            assert got == wanted[: len(got)]
        drafted += world.scheduler.stats().accepted_tokens
    assert drafted and stretches
