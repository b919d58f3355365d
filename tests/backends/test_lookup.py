"""Runs of tokens found again on a CPU, beside the definition."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.cpu.lookup import Lookup


def followers(row: list[int], least: int, longest: int, each: int, most: int) -> list[int]:
    best, place = 0, 0
    for end in range(1, len(row)):
        runs = [n for n in range(1, min(longest, end) + 1) if row[end - n : end] == row[-n:]]
        if runs and max(runs) >= best:
            best, place = max(runs), end
    count = 0 if best < least else min(most, each * best) if each else most
    found = row[place : place + count]
    return found + [-1] * (most - len(found))


def cases(most_rows: int) -> dict[str, st.SearchStrategy[Any]]:
    row = st.lists(st.integers(0, 2), min_size=1, max_size=40)
    return {
        "rows": st.lists(row, min_size=1, max_size=most_rows),
        "least": st.integers(1, 3),
        "more": st.integers(0, 5),
        "each": st.integers(0, 2),
        "most": st.integers(1, 9),
    }


def check(make: Any, rows: list[list[int]], least: int, more: int, each: int, most: int) -> None:
    # What stands behind a row's end is another's, and slots are not in order.
    tokens = torch.ones(len(rows) + 2, 50, dtype=torch.int32)
    slots = torch.arange(len(rows) + 1, 1, -1)
    for slot, row in zip(slots.tolist(), rows, strict=True):
        tokens[slot, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([*map(len, rows)])
    found = make(least, least + more, each)(tokens, slots, lengths, most)
    assert found.tolist() == [followers(row, least, least + more, each, most) for row in rows]


@given(**cases(9))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_lookup(**case: Any) -> None:
    check(Lookup, **case)
