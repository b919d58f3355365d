"""The order that each built-in policy makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.contracts.policy import Candidate, Policy
from quire.core.registry import Registry

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        request_id=st.just("r"),
        priority=st.integers(-(2**31), 2**31),
        arrival=st.floats(0, 1e9),
        num_tokens=st.integers(1, 10**6),
        max_tokens=st.integers(1, 10**6),
        cache_salt=st.just(""),
    ),
    min_size=1,
)


def policy(name: str) -> Policy:
    return Registry().get("policy", name)()


@given(CANDIDATES)
def test_fcfs_runs_the_oldest_first_and_sends_back_the_youngest(found: list[Candidate]) -> None:
    fcfs = policy("fcfs")
    arrivals = [candidate.arrival for candidate in sorted(found, key=fcfs.rank)]
    assert arrivals == sorted(arrivals)
    assert found[fcfs.victim(found)].arrival == max(arrivals)


@given(CANDIDATES)
def test_priority_goes_before_age(found: list[Candidate]) -> None:
    priority = policy("priority")
    order = [(c.priority, c.arrival) for c in sorted(found, key=priority.rank)]
    assert order == sorted(order)
    victim = found[priority.victim(found)]
    assert (victim.priority, victim.arrival) == order[-1]


@pytest.mark.parametrize("name", ["fcfs", "priority"])
def test_of_equals_the_last_gives_way(name: str) -> None:
    equal = [Candidate("r", 1, 2.0, 3, 4, "")] * 3
    assert policy(name).victim(equal) == 2
