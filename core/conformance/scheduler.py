"""Schedulers: every request ends with the tokens it should, and no block is ever misused.

The device of these checks draws tokens that depend on all before them, read through the block
table, so a block used twice, freed too early or computed with other tokens changes the result.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from ..contracts.policy import Candidate, Policy
from ..contracts.scheduler import Scheduler, SchedulerSettings
from ..errors import InvalidRequest, Overloaded
from ..request import Request, SamplingParams
from ..step import Delta, Plan
from .device import FakeDevice, FakePending, expected
from .report import ConformanceError, require

__all__ = ("check_scheduler",)

Factory = Callable[[SchedulerSettings, Policy], Scheduler]
_STEPS = 4000


def check_scheduler(factory: Factory, *, rounds: int = 60) -> None:
    """Run mixes of requests, with and without overlap, aborts, failing steps and small caches.

    Args:
        factory: makes one from settings and a policy.
        rounds: mixes to run.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    for seed in range(rounds):
        _check_mix(factory, random.Random(seed))
    _check_refusals(factory)
    _check_failing_step(factory)
    _check_forgetting(factory)


class _Oldest(Policy):
    def rank(self, candidate: Candidate) -> tuple[float, ...]:
        return (candidate.arrival,)


class _Loop:
    """The engine's loop around a scheduler."""

    def __init__(self, scheduler: Scheduler, settings: SchedulerSettings, *, overlap: bool) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.device = FakeDevice(settings.block_size)
        self.depth = int(overlap)
        self.flight: deque[tuple[Plan, FakePending]] = deque()
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}

    def step(self) -> None:
        plan = self.scheduler.plan()
        if plan is not None:
            self._check_plan(plan)
            self.flight.append((plan, self.device.execute(plan)))
        while len(self.flight) > (0 if plan is None else self.depth):
            done, pending = self.flight.popleft()
            try:
                deltas = self.scheduler.update(done, pending.wait())
            except ZeroDivisionError as error:
                deltas = self.scheduler.fail(done, str(error))
            for delta in deltas:
                self.hear(delta)
        try:
            self.scheduler.check()
        except RuntimeError as error:
            raise ConformanceError(f"its own check finds: {error}") from error

    def hear(self, delta: Delta) -> None:
        name = delta.request_id
        require(name not in self.reasons, f"request {name} is heard of after its end")
        self.tokens.setdefault(name, []).extend(delta.token_ids)
        if delta.finish_reason:
            self.reasons[name] = delta.finish_reason

    def drain(self) -> None:
        for _ in range(_STEPS):
            if not self.scheduler.has_work() and not self.flight:
                break
            self.step()
        else:
            raise ConformanceError(f"requests have not ended after {_STEPS} steps")
        stats = self.scheduler.stats()
        left = (stats.running, stats.waiting, stats.blocks_used)
        require(left == (0, 0, 0), f"when all is done, running, waiting and blocks are {left}")

    def _check_plan(self, plan: Plan) -> None:
        limits = self.settings
        most = limits.max_num_batched_tokens
        require(0 < plan.num_tokens <= most, f"a plan has {plan.num_tokens} of {most} tokens")
        counts = [row.count for row in plan.rows]
        require(counts == sorted(counts, key=lambda c: c > 1), "single tokens do not come first")
        slots = [row.slot for row in plan.rows]
        require(len(set(slots)) == len(slots), "a plan computes one slot twice")
        drawn = sum(row.samples * (1 + row.drafts) for row in plan.rows)
        most = max(limits.max_draws, limits.max_num_seqs)
        require(drawn <= most, f"a plan draws {drawn} of {most} tokens")
        valid = all(0 <= slot < limits.max_num_seqs for slot in slots)
        require(valid, f"a plan names slots {slots} of {limits.max_num_seqs}")


def _check_mix(factory: Factory, rng: random.Random) -> None:
    settings = _settings(
        num_blocks=rng.randint(11, 40),
        max_num_batched_tokens=rng.randint(1, 40),
        max_num_seqs=rng.randint(1, 6),
        prefix_caching=rng.random() < 0.7,
        max_drafts=rng.choice([0, 1, 4]),
        max_draws=rng.randint(6, 30),
        adaptive=rng.random() < 0.5,
    )
    scheduler = factory(settings, _Oldest())
    loop = _Loop(scheduler, settings, overlap=rng.random() < 0.5)
    requests = [_draw(rng, str(index)) for index in range(rng.randint(1, 14))]
    leaving = {r.request_id: rng.randint(0, 30) for r in requests if rng.random() < 0.3}
    aborted = set()
    for step in range(32):
        for request in requests:
            name = request.request_id
            if request.arrival == step:
                scheduler.add(request)
            if leaving.get(name) == step and (last := scheduler.abort(name)) is not None:
                require(last.finish_reason == "abort", "abort gives a delta that is not the last")
                loop.hear(last)
                aborted.add(name)
        loop.step()
    loop.drain()
    require(scheduler.abort("nobody") is None, "abort of an unknown request gives a delta")
    for request in requests:
        name = request.request_id
        want = expected(request.prompt_token_ids, request.max_tokens, tuple(request.stop_ids))
        found = loop.tokens.get(name, [])
        if name in aborted:
            want = want[: len(found)]
        require(found == want, f"request {name} got {found}, not {want}")
        reason = "stop" if want and want[-1] in request.stop_ids else "length"
        reason = "abort" if name in aborted else reason
        require(loop.reasons[name] == reason, f"{name} ended by {loop.reasons[name]}")


def _check_refusals(factory: Factory) -> None:
    settings = _settings(max_waiting=2)
    scheduler = factory(settings, _Oldest())
    for name, prompt, limit in (("context", 30, 30), ("cache", 100, 1)):
        try:
            scheduler.add(_request(name, [1] * prompt, limit))
        except InvalidRequest:
            require(not scheduler.has_work(), "a refused request stays")
            continue
        raise ConformanceError(f"a request longer than the {name} is taken in")
    for name in ("a", "b"):
        scheduler.add(_request(name, [1, 2], 2))
    try:
        scheduler.add(_request("c", [1, 2], 2))
    except Overloaded:
        pass
    else:
        raise ConformanceError("a queue that is full takes another request in")
    loop = _Loop(scheduler, settings, overlap=True)
    loop.drain()
    require(loop.reasons.keys() == {"a", "b"}, "requests that were taken in did not all end")


def _check_failing_step(factory: Factory) -> None:
    """One request breaks every step it is in: it ends with an error, the others as they should."""
    settings = _settings(num_blocks=40)
    scheduler = factory(settings, _Oldest())
    loop = _Loop(scheduler, settings, overlap=True)
    bad: set[int] = set()

    def fault(plan: Plan) -> None:
        for newcomer in plan.newcomers:
            (bad.add if 13 in newcomer.token_ids else bad.discard)(newcomer.slot)
        if bad & {row.slot for row in plan.rows}:
            raise ZeroDivisionError

    loop.device.fault = fault
    prompts = {"a": [1, 2, 3], "bad": [1, 13], "b": [4] * 9}
    for name, prompt in prompts.items():
        scheduler.add(_request(name, prompt, 6))
    loop.drain()
    require(loop.reasons["bad"] == "error", f"what breaks steps ended by {loop.reasons['bad']}")
    for name in ("a", "b"):
        want = expected(prompts[name], 6)
        require(loop.tokens[name] == want, f"beside what breaks steps, {name} got other tokens")


def _check_forgetting(factory: Factory) -> None:
    """What is forgotten is not found again."""
    settings = _settings(num_blocks=40)
    scheduler = factory(settings, _Oldest())
    loop = _Loop(scheduler, settings, overlap=False)
    for name in ("first", "second"):
        scheduler.add(_request(name, [5] * 20, 2))
        loop.drain()
    hits = scheduler.stats().prefix_hits
    scheduler.forget_prefixes()
    scheduler.add(_request("third", [5] * 20, 2))
    loop.drain()
    found = scheduler.stats().prefix_hits
    require(found == hits, "a request finds what forget_prefixes should have forgotten")
    require(len(set(map(tuple, loop.tokens.values()))) == 1, "one prompt has several answers")


def _settings(**changes: Any) -> SchedulerSettings:
    values: dict[str, Any] = {
        "num_blocks": 12,
        "block_size": 4,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_model_len": 40,
    }
    return SchedulerSettings(**(values | changes))


def _draw(rng: random.Random, name: str) -> Request:
    prompt = [rng.randint(1, 3)] * rng.randint(1, 24) + [int(name)]
    salt = rng.choice(["", "", "tenant"])
    arrival = float(rng.randint(0, 20))
    return _request(name, prompt, rng.randint(1, 12), arrival=arrival, salt=salt, stop_ids=[7])


def _request(
    name: str,
    prompt: list[int],
    max_tokens: int,
    *,
    arrival: float = 0.0,
    salt: str = "",
    stop_ids: list[int] | None = None,
) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=max_tokens),
        seed=0,
        max_tokens=max_tokens,
        stop_ids=stop_ids or [],
        arrival=arrival,
        cache_salt=salt,
    )
