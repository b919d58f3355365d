"""Executors: every registered one conforms, and broken ones are caught."""

import pytest
from msgspec import structs

from quire.core.contracts.executor import Executor
from quire.core.parallel.inline import InlineExecutor
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_executor


@pytest.mark.parametrize("name", Registry().names("executor"))
def test_every_registered_executor_conforms(name: str) -> None:
    check_executor(Registry().get("executor", name))


class Answer:
    def __init__(self, outcome) -> None:
        self._outcome = outcome

    def wait(self):
        return self._outcome


class Silent(InlineExecutor):
    def start(self, report):
        return super().start(lambda name, seconds: None)


class Boasting(InlineExecutor):
    def start(self, report):
        info = super().start(report)
        return structs.replace(info, num_blocks=info.num_blocks + 1)


class Confused(InlineExecutor):
    """Answers a plan with the outcome of another."""

    def execute(self, plan):
        outcome = super().execute(plan).wait()
        return Answer(structs.replace(outcome, step=outcome.step + 1))


class Eager(InlineExecutor):
    """Draws where nobody asked."""

    def execute(self, plan):
        outcome = super().execute(plan).wait()
        return Answer(structs.replace(outcome, tokens=[row or [0] for row in outcome.tokens]))


class Forgetful(InlineExecutor):
    """Leaves out the first new block, so that a piece of the prompt is lost."""

    def execute(self, plan):
        rows = [
            structs.replace(row, start=0, count=1) if row.count == 4 else row for row in plan.rows
        ]
        return super().execute(structs.replace(plan, rows=rows))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Silent, "no phase"),
        (Boasting, "65 are there"),
        (Confused, "is answered by"),
        (Eager, "where 0 are due"),
        (Forgetful, "in pieces"),
    ],
)
def test_a_broken_executor_is_caught(broken: type[Executor], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_executor(broken)
