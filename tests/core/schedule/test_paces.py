"""What a batch gains where some sequences have more luck than others."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.schedule.paces import Paces


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 30))
def test_who_are_equally_lucky_gain_the_mean(steps: list[int], count: int) -> None:
    paces = Paces(64)
    for made in steps:
        assert paces.gained([*range(count)], [made] * count) == pytest.approx(made)


@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=24))
def test_never_more_than_the_mean(steps: list[list[int]]) -> None:
    """Of all steps together, as far as they are remembered."""
    paces = Paces(64)
    gained = [paces.gained([*range(6)], made) for made in steps]
    assert sum(gained) <= sum(map(statistics.mean, steps)) + 1e-9


@given(st.lists(st.lists(st.integers(1, 5), min_size=6, max_size=6), min_size=2, max_size=20))
def test_steps_taken_in_together_give_what_they_give_one_by_one(steps: list[list[int]]) -> None:
    slots, whole = [*range(6)], [sum(made) for made in zip(*steps, strict=True)]
    one_by_one, together = Paces(64), Paces(64)
    gained = sum(one_by_one.gained(slots, made) for made in steps)
    assert together.gained(slots, whole, len(steps)) == pytest.approx(gained)


def test_one_sequence_gains_its_tokens() -> None:
    paces = Paces(64)
    assert [paces.gained([*range(1)], [made]) for made in (1, 5, 2)] == [1, 5, 2]


def test_the_luckless_count() -> None:
    """What the first steps seemed to give is taken back."""
    paces = Paces(64)
    gained = [paces.gained([*range(4)], [5, 5, 5, 1]) for _ in range(40)]
    assert 3.5 < gained[0] < 4
    # Of 5, 5, 5 and 1 the harmonic mean is 2.5.
    assert gained[-1] == pytest.approx(2.5, abs=0.1)
    assert statistics.mean(gained[:24]) == pytest.approx(2.8, abs=0.1)


def test_chance_alone_is_not_taken_for_luck() -> None:
    paces, rng = Paces(64), random.Random(0)
    gained = [paces.gained([*range(64)], [rng.randint(1, 5) for _ in range(64)]) for _ in range(60)]
    assert min(gained) > 2.3
    assert statistics.mean(gained) > 0.97 * 3


def test_a_slot_is_somebody_elses_then() -> None:
    paces = Paces(64)
    for _ in range(30):
        paces.gained([*range(2)], [5, 1])
    paces.forget([0, 1])
    assert paces.gained([*range(2)], [5, 5]) == pytest.approx(5)


def test_who_comes_takes_nothing_from_what_others_have_got() -> None:
    paces = Paces(64)
    for _ in range(10):
        paces.gained([*range(2)], [3, 3])
    assert paces.gained([*range(5)], [3] * 5) == pytest.approx(3)
    assert paces.gained([*range(1)], [3]) == pytest.approx(3)
