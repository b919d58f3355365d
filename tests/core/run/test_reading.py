"""Tokens that a speculator's own model reads, in pieces no larger than a step."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.core.contracts.speculator import Reader
from quire.core.run.reading import Reading
from quire.core.run.staging import Staging


@given(
    lacking=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    most=st.integers(1, 24),
    leaves=st.integers(1, 3),
)
def test_pieces_hold_each_token_once_and_in_order(
    lacking: list[int], most: int, leaves: int
) -> None:
    reader = Reader(SimpleNamespace(), SimpleNamespace(), leaves)
    reading = Reading(reader, most, Staging(torch.device("cpu")))
    read: dict[int, list[int]] = {row: [] for row in range(len(lacking))}
    pieces = list(reading._pieces(np.array(lacking)))
    for rows, starts, counts in pieces:
        assert 0 < counts.sum() <= most
        assert len(set(rows.tolist())) == len(rows)
        assert sorted(counts > 1) == list(counts > 1)
        for row, start, count in zip(rows.tolist(), starts.tolist(), counts.tolist(), strict=True):
            read[row] += range(start, start - count, -1)
    for row, count in enumerate(lacking):
        assert read[row] == [*range(count + leaves, leaves, -1)]
    # No more pieces than it takes.
    assert len(pieces) == -(-sum(lacking) // most)
