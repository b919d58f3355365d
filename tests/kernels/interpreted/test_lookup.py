"""Runs of tokens found again by Triton's kernel, beside the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.kernels import lookup
from tests.backends.test_lookup import followers


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_BLOCK", 16)
        yield


@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=4),
    least=st.integers(1, 3), more=st.integers(0, 5), each=st.integers(0, 2), most=st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_lookup(rows: list[list[int]], least: int, more: int, each: int, most: int) -> None:
    # What stands behind a row's end is another's, and slots are not in order.
    tokens = torch.ones(len(rows) + 2, 50, dtype=torch.int32)
    slots = torch.arange(len(rows) + 1, 1, -1)
    for slot, row in zip(slots.tolist(), rows, strict=True):
        tokens[slot, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([*map(len, rows)])
    found = lookup.TritonLookup(least, least + more, each)(tokens, slots, lengths, most)
    assert found.tolist() == [followers(row, least, least + more, each, most) for row in rows]
