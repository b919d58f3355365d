"""Scripts, and the same functions where torch has none."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
import torch

from quire.core.layers.scripted import Recorded, scripted


def doubled(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = x + x
    return x


@pytest.mark.filterwarnings("error")
def test_a_script_does_what_the_function_does() -> None:
    script = scripted(doubled)
    assert isinstance(script, torch.jit.ScriptFunction)
    x = torch.randn(3)
    assert torch.equal(script(x, 3), doubled(x, 3))


def test_without_scripts_the_function_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(function: object) -> object:
        raise RuntimeError("torch.jit.script is gone")

    monkeypatch.setattr(torch.jit, "script", missing)
    assert scripted(doubled) is doubled
    monkeypatch.delattr(torch.jit, "script")
    assert scripted(doubled) is doubled


class Pair(NamedTuple):
    left: torch.Tensor
    factor: int | None


def test_a_recording_gives_what_the_function_gives() -> None:
    calls = 0

    def work(pair: Pair, others: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        total = pair.left if pair.factor is None else pair.left * pair.factor
        kept, more = others
        kept[: len(total)] = total
        return total + more[: len(total)], kept.sum()

    recorded = Recorded(work)
    kept = torch.zeros(3)
    for call in range(80):
        if call == 60:
            seen = calls
        size, factor = 2 + call % 2, (None, 2, 3)[call % 3]
        left, more = torch.randn(size), torch.randn(4 + call)
        expected = kept.clone()
        expected[:size] = left * (factor or 1)
        total, over_all = recorded(size, Pair(left, factor), (kept, more))
        assert torch.equal(total, expected[:size] + more[:size])
        assert torch.equal(kept, expected)
        assert over_all == expected.sum()
    assert calls == seen, "Python still runs"


def test_many_tokens_are_not_recorded() -> None:
    calls = 0

    def work(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x + x

    recorded = Recorded(work)
    for _ in range(20):
        recorded(1000, torch.ones(1000))
    assert calls == 20


def test_what_depends_on_more_than_its_arguments_is_not_recorded() -> None:
    turn = 0

    def work(x: torch.Tensor) -> torch.Tensor:
        nonlocal turn
        turn += 1
        return x * turn

    recorded = Recorded(work)
    for _ in range(30):
        x = torch.randn(3)
        expected = x * (turn + 1)
        assert torch.equal(recorded(3, x), expected)


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not this one")
        return x + 1

    recorded = Recorded(work)
    for _ in range(30):
        x = torch.randn(3)
        assert torch.equal(recorded(3, x), x + 1)


def test_only_so_many_kinds_are_recorded() -> None:
    calls: Counter[int] = Counter()

    def work(x: torch.Tensor, factor: int) -> torch.Tensor:
        calls[factor] += 1
        return x * factor

    recorded = Recorded(work)
    for _ in range(20):
        for factor in range(30):
            x = torch.randn(3)
            assert torch.equal(recorded(3, x, factor), x * factor)
    assert sum(count < 20 for count in calls.values()) == 16
