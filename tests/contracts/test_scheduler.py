"""Schedulers: every registered one conforms, a plain one shows how little it takes, and broken
ones are caught."""

import pytest
from msgspec import structs

from quire.core.contracts.scheduler import Scheduler
from quire.core.registry import Registry
from quire.core.schedule.default import DefaultScheduler
from quire.testing import ConformanceError, check_scheduler

from ..fakes.scheduler import OneByOne


@pytest.mark.parametrize("name", Registry().names("scheduler"))
def test_every_registered_scheduler_conforms(name: str) -> None:
    check_scheduler(Registry().get("scheduler", name))


def test_one_request_at_a_time_conforms() -> None:
    check_scheduler(OneByOne)


class Leaking(DefaultScheduler):
    def _finish(self, seq):
        self.cache.pool.share(seq.blocks[0]) if seq.blocks else None
        super()._finish(seq)


class Greedy(DefaultScheduler):
    def __init__(self, settings, policy):
        super().__init__(structs.replace(settings, max_num_batched_tokens=1000), policy)


class Late(DefaultScheduler):
    def update(self, plan, outcome):
        deltas = super().update(plan, outcome)
        return deltas + deltas[-1:]


class Lenient(DefaultScheduler):
    def add(self, request):
        if len(request.prompt_token_ids) < 30:
            super().add(request)


class Remembering(DefaultScheduler):
    def forget_prefixes(self):
        pass


class Panicking(DefaultScheduler):
    def fail(self, plan, message):
        super().fail(plan, message)
        return [d for name in list(self._roster.sequences) if (d := self.abort(name))]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Leaking, "its own check finds|blocks are"),
        (Greedy, "tokens"),
        (Late, "after its end|got"),
        (Lenient, "is taken in"),
        (Remembering, "forget_prefixes"),
        (Panicking, "ended by|got other tokens|KeyError"),
    ],
)
def test_a_broken_scheduler_is_caught(broken: type[Scheduler], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_scheduler(broken)
