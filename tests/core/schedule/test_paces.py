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
    paces = Paces(64)
    for made in steps:
        assert paces.gained(rows_of(count), tokens_of([made] * count)) == pytest.approx(made)


@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=24))
def test_never_more_than_the_mean(steps: list[list[int]]) -> None:
    """Of all steps together, as far as they are remembered."""
    paces = Paces(64)
    gained = [paces.gained(rows_of(6), tokens_of(made)) for made in steps]
    assert sum(gained) <= sum(map(statistics.mean, steps)) + 1e-9


def test_one_sequence_gains_its_tokens() -> None:
    paces = Paces(64)
    assert [paces.gained(rows_of(1), tokens_of([made])) for made in (1, 5, 2)] == [1, 5, 2]


def test_the_luckless_count() -> None:
    """What the first steps seemed to give is taken back."""
    paces = Paces(64)
    gained = [paces.gained(rows_of(4), tokens_of([5, 5, 5, 1])) for _ in range(40)]
    assert 3.5 < gained[0] < 4
    # Of 5, 5, 5 and 1 the harmonic mean is 2.5.
    assert gained[-1] == pytest.approx(2.5, abs=0.1)
    assert statistics.mean(gained[:24]) == pytest.approx(2.8, abs=0.1)


def test_chance_alone_is_not_taken_for_luck() -> None:
    paces, rng = Paces(64), random.Random(0)
    gained = [
        paces.gained(rows_of(64), tokens_of([rng.randint(1, 5) for _ in range(64)]))
        for _ in range(60)
    ]
    assert min(gained) > 2.3
    assert statistics.mean(gained) > 0.97 * 3


def test_a_slot_is_somebody_elses_then() -> None:
    paces = Paces(64)
    for _ in range(30):
        paces.gained(rows_of(2), tokens_of([5, 1]))
    paces.forget([0, 1])
    assert paces.gained(rows_of(2), tokens_of([5, 5])) == pytest.approx(5)


def test_who_comes_takes_nothing_from_what_others_have_got() -> None:
    paces = Paces(64)
    for _ in range(10):
        paces.gained(rows_of(2), tokens_of([3, 3]))
    assert paces.gained(rows_of(5), tokens_of([3] * 5)) == pytest.approx(3)
    assert paces.gained(rows_of(1), tokens_of([3])) == pytest.approx(3)
