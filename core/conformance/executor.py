"""Executors: outcomes in the order of plans, and the same tokens however a prompt is cut.

The embedded model runs on the device that is preferred here, in float32 and greedily.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from ..config import CacheConfig, Config, ModelConfig, ScheduleConfig, known
from ..contracts.executor import Executor, Pending
from ..registry import Registry
from ..request import SamplingParams
from ..resolve import resolve
from ..step import Newcomer, Outcome, Plan, Row
from .report import require

__all__ = ("check_executor",)

Factory = Callable[[Config, Registry], Executor]
_PROMPT = [11, 42, 7, 99, 180, 23, 64, 5, 77, 31, 18]
_OTHER = [250, 3, 9]
_GREEDY = SamplingParams(temperature=0, max_tokens=32)
# Beyond a block of 16.
_DRAWS = 8


def check_executor(factory: Factory, config: Config | None = None) -> None:
    """Start it, run sequences whole, in pieces and side by side, and shut it down.

    Args:
        factory: makes one from a resolved configuration and a registry.
        config: as written, for an executor that needs settings of its own; its model is replaced.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    small = msgspec.structs.replace(
        config or Config(),
        model=ModelConfig(name="demo", dtype="float32", max_model_len=128),
        cache=CacheConfig(num_blocks=64),
        schedule=ScheduleConfig(max_num_seqs=4, max_num_batched_tokens=64),
    )
    registry = Registry(small.plugins.load)
    resolution = resolve(small, registry)
    executor = factory(resolution.config, registry)
    phases: list[tuple[str, float]] = []
    try:
        info = executor.start(lambda name, seconds: phases.append((name, seconds)))
        require(bool(phases), "start reports no phase")
        honest = all(name and seconds >= 0 for name, seconds in phases)
        require(honest, f"start reports {phases}")
        require(info.num_blocks == 64, f"64 blocks were asked for, {info.num_blocks} are there")
        size = resolution.source.vocab_size()
        require(info.vocab_size == size, f"vocab_size is {info.vocab_size}, the model's is {size}")
        _check_steps(_Run(executor, known(resolution.config.cache.block_size)))
    finally:
        executor.shutdown()
        executor.shutdown()


class _Run:
    """Makes plans and answers them in order."""

    def __init__(self, executor: Executor, block_size: int) -> None:
        self._executor = executor
        self._size = block_size
        self._step = 0
        self._next_block = 1
        self._tables: dict[int, int] = {}
        self._depth = int("overlap" in executor.capabilities.features)
        self._flight: deque[tuple[Plan, Pending]] = deque()
        self.drawn: dict[int, list[int]] = {}

    def step(self, newcomers: dict[int, list[int]], rows: list[tuple[int, int, int, bool]]) -> None:
        """One step of rows (slot, start, count, samples), launched before the last is answered."""
        made = []
        for slot, prompt in newcomers.items():
            self._tables[slot] = 0
            self.drawn[slot] = []
            made.append(Newcomer(slot, prompt, len(prompt), 0, _GREEDY))
        planned = [self._row(*row) for row in rows]
        plain = not made and all(row.count == 1 and row.samples for row in planned)
        grows = any(row.new_blocks for row in planned)
        plan = Plan(self._step, made, planned, plain, grows=grows)
        self._step += 1
        self._flight.append((plan, self._executor.execute(plan)))
        self.answer(self._depth)

    def answer(self, left: int) -> None:
        """Take outcomes in until so many steps are in flight."""
        while len(self._flight) > left:
            plan, pending = self._flight.popleft()
            self._take(plan, pending.wait())

    def _row(self, slot: int, start: int, count: int, samples: bool) -> Row:
        missing = -(-(start + count) // self._size) - self._tables[slot]
        blocks = list(range(self._next_block, self._next_block + missing))
        self._next_block += missing
        self._tables[slot] += missing
        return Row(slot, start, count, blocks, samples)

    def _take(self, plan: Plan, outcome: Outcome) -> None:
        require(outcome.step == plan.step, f"step {plan.step} is answered by {outcome.step}")
        same = len(outcome.tokens) == len(plan.rows)
        require(same, f"{len(plan.rows)} rows have {len(outcome.tokens)} answers")
        for row, tokens in zip(plan.rows, outcome.tokens, strict=True):
            wanted = int(row.samples)
            require(len(tokens) == wanted, f"a row draws {tokens} where {wanted} are due")
            self.drawn[row.slot] += tokens


def _check_steps(run: _Run) -> None:
    length, other = len(_PROMPT), len(_OTHER)
    run.step({0: _PROMPT}, [(0, 0, length, True)])
    for draw in range(_DRAWS - 1):
        run.step({}, [(0, length + draw, 1, True)])
    run.answer(0)
    whole = run.drawn[0]
    run.step({1: _PROMPT, 2: _OTHER}, [(1, 0, 4, False), (2, 0, other, True)])
    run.step({}, [(2, other, 1, True), (1, 4, 4, False)])
    run.step({}, [(2, other + 1, 1, True), (1, 8, length - 8, True)])
    for draw in range(_DRAWS - 1):
        run.step({}, [(1, length + draw, 1, True), (2, other + 2 + draw, 1, True)])
    run.answer(0)
    require(run.drawn[1] == whole, f"in pieces beside another: {run.drawn[1]}, whole: {whole}")
    run.step({0: _OTHER}, [(0, 0, other, True)])
    for draw in range(_DRAWS - 1):
        run.step({}, [(0, other + draw, 1, True)])
    run.answer(0)
    used, fresh = run.drawn[0], run.drawn[2][:_DRAWS]
    require(used == fresh, f"in a slot that was used before: {used}, in a fresh one: {fresh}")
