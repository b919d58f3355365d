"""Drafts that a step has no room for: nobody is left out for those who come first."""

from hypothesis import given
from hypothesis import strategies as st

from quire.core.schedule.spare import Spare


def planned(spare: Spare, room: int, ready: list[int], most: int = 100) -> list[int]:
    """The drafts of each sequence in a step."""
    spare.begin(room)
    taken = [spare.take(drafts, most) for drafts in ready]
    assert spare.left == room - sum(taken)
    return taken


def test_what_is_scarce_is_divided_from_the_second_step_on() -> None:
    spare = Spare()
    assert planned(spare, 384, [4] * 128) == [4] * 96 + [0] * 32
    for _ in range(3):
        assert planned(spare, 384, [4] * 128) == [3] * 128
    # Who wants fewer gets those.
    assert planned(spare, 384, [4, 1] * 64) == [3, 1] * 64
    assert planned(spare, 384, [4] * 96) == [4] * 96


def test_where_not_everybody_can_have_one_some_do() -> None:
    spare = Spare()
    planned(spare, 3, [1] * 5)
    assert planned(spare, 3, [1] * 5) == [1, 1, 1, 0, 0]


def test_a_step_without_room_says_nothing_about_the_next() -> None:
    spare = Spare()
    assert planned(spare, 0, [2, 2]) == [0, 0]
    assert planned(spare, -3, [2, 2]) == [0, 0]
    assert planned(spare, 4, [2, 2]) == [2, 2]


@given(
    st.lists(st.tuples(st.integers(-2, 40), st.lists(st.integers(0, 8), max_size=12)), max_size=6),
    st.integers(-1, 9),
)
def test_no_step_has_more_than_there_is_room_for(steps, most: int) -> None:
    spare = Spare()
    for room, ready in steps:
        taken = planned(spare, room, ready, most)
        assert sum(taken) <= max(room, 0)
        for drafts, wanted in zip(taken, ready, strict=True):
            assert 0 <= drafts <= min(wanted, max(most, 0))
