"""Numbers of rows that steps are captured for: few, and never much greater than a step's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.run.graph_sizes import graph_rows, graph_sizes, holding_sizes, stand_in_rows


@given(most=st.integers(1, 2048), rows=st.integers(1, 2048))
def test_every_step_fits_in_a_size_of_its_own_in_larger_ones_and_in_a_stand_in(
    most: int, rows: int
) -> None:
    rows = min(rows, most)
    sizes, size = graph_sizes(most), graph_rows(rows)
    assert size in sizes and rows <= size
    holding = holding_sizes(sizes, size)
    assert holding[0] == size and holding[-1] <= max(64, size * 5 // 4)
    assert stand_in_rows(sizes, size) in holding


def test_sizes_are_few() -> None:
    assert graph_sizes(64) == [1, 2, 4, 8, 16, 32, 48, 64]
    assert len(graph_sizes(512)) < 20


@pytest.mark.parametrize(("most", "stand_ins"), [(4, {4}), (24, {16, 32}), (64, {16, 32, 64})])
def test_few_stand_ins_serve_all(most: int, stand_ins: set[int]) -> None:
    sizes = graph_sizes(most)
    assert {stand_in_rows(sizes, graph_rows(rows)) for rows in range(1, most + 1)} == stand_ins
