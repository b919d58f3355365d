"""A decode step's inputs against torch's indexing."""

import pytest
import torch

from quire.backends.kernels.step_inputs import step_inputs


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(("rows", "block_size", "length"), [(1, 16, 40), (5, 4, 1500), (3, 32, 33)])
def test_step_inputs(rows: int, block_size: int, length: int, index: torch.dtype) -> None:
    tokens = torch.randint(0, 2**31 - 1, (7, length), dtype=torch.int32)
    blocks = torch.randint(0, 9999, (7, -(-length // block_size) + 2), dtype=torch.int32)
    slots = torch.randperm(7)[:rows]
    starts = torch.randint(0, length, (rows,))
    starts[0] = length - 1
    got = step_inputs(slots.to(index), starts.to(index), tokens, blocks, block_size)
    assert torch.equal(got.token_ids, tokens[slots, starts].long())
    assert torch.equal(got.positions, starts)
    assert torch.equal(got.lengths, (starts + 1).int())
    inside = blocks[slots, starts // block_size].long() * block_size + starts % block_size
    assert torch.equal(got.write_slots, inside)
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        count = int(start) // block_size + 1
        assert torch.equal(got.block_tables[row, :count], blocks[slot, :count])


def test_no_rows() -> None:
    none = torch.empty(0, dtype=torch.int64)
    table = torch.zeros(2, 4, dtype=torch.int32)
    assert step_inputs(none, none, table, table, 4).token_ids.shape == (0,)
