"""What a batch gains where some sequences have more luck than others."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.schedule.paces import Paces
from quire.core.step import Row


def rows_of(count: int) -> list[Row]:
    return [Row(slot, 10, 5, [], True, 4) for slot in range(count)]


def tokens_of(counts: list[int]) -> list[list[int]]:
    return [[0] * count for count in counts]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 30))
def test_who_are_equally_lucky_gain_the_mean(steps: list[int], count: int) -> None:
    paces = Paces()
    for made in steps:
        assert paces.gained(rows_of(count), tokens_of([made] * count)) == pytest.approx(made)


@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=40))
def test_never_more_than_the_mean(steps: list[list[int]]) -> None:
    paces = Paces()
    for made in steps:
        assert 0 <= paces.gained(rows_of(6), tokens_of(made)) <= statistics.mean(made) + 1e-9


def test_one_sequence_gains_its_tokens() -> None:
    paces = Paces()
    assert [paces.gained(rows_of(1), tokens_of([made])) for made in (1, 5, 2)] == [1, 5, 2]


def test_the_luckless_count() -> None:
    """In the end nearly as by the harmonic mean of what all get."""
    paces = Paces()
    gained = [paces.gained(rows_of(4), tokens_of([5, 5, 5, 1])) for _ in range(40)]
    assert gained == sorted(gained, reverse=True)
    assert 3.5 < gained[0] < 4 and 2.5 < gained[-1] < 2.85  # Of 5, 5, 5 and 1 it is 2.5.


def test_chance_alone_is_not_taken_for_luck() -> None:
    paces, rng = Paces(), random.Random(0)
    shares = []
    for _ in range(60):
        made = [rng.randint(1, 5) for _ in range(64)]
        shares.append(paces.gained(rows_of(64), tokens_of(made)) / statistics.mean(made))
    assert min(shares) > 0.9 and shares[-1] > 0.98


def test_a_slot_is_somebody_elses_then() -> None:
    paces = Paces()
    for _ in range(30):
        paces.gained(rows_of(2), tokens_of([5, 1]))
    paces.forget([1])
    assert paces.gained(rows_of(2), tokens_of([5, 5])) > 4.9
