"""What stands around the model in a step, on a GPU: kernels beside torch's operators."""

import pytest
import torch

from quire.backends.cpu.lookup import Lookup
from quire.backends.kernels.lookup import TritonLookup
from quire.core.run.slot_kernels import FLOATING, LAST, OFFSET
from quire.core.run.slots import SlotTable
from quire.core.run.verify import place_drafts, verify
from tests.kernels import slot_tables
from tests.kernels.slot_tables import same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")
SLOTS, LENGTH, MOST, VOCABULARY = 300, 20_000, 16, 128_256


def tables() -> list[SlotTable]:
    return slot_tables.tables(
        7,
        vocabulary=VOCABULARY,
        num_blocks=10_000,
        max_slots=SLOTS,
        max_model_len=LENGTH,
        block_size=16,
        device=GPU,
        max_drafts=MOST,
    )


@pytest.mark.parametrize("rows", [1, 2, 33, 256])
def test_a_step(rows: int) -> None:
    """Located, and verified where some drafts are right and others are not."""
    ours, plain = tables()
    drafts = torch.randint(0, MOST + 1, (rows,))
    slots = torch.randperm(SLOTS)[:rows].repeat_interleave(drafts + 1).to(GPU)
    ends = (drafts + 1).cumsum(0)
    before = torch.arange(len(slots)) - (ends - drafts - 1).repeat_interleave(drafts + 1)
    codes = before << OFFSET
    codes[ends - 1] += LAST
    codes += FLOATING * (torch.rand(rows) < 0.5).repeat_interleave(drafts + 1)
    codes, starts = codes.to(GPU), plain.lengths[slots] - 1 + before.to(GPU)
    # A row for each slot, where there are no drafts.
    firsts = ends - drafts - 1
    both = []
    for table in (ours, plain):
        at, plainly = table.places(len(slots)), table.places(rows)
        table.locate(slots, starts.clone(), codes, at, advances=False)
        moved = starts[firsts]
        table.locate(slots[firsts], moved, None, plainly, advances=True)
        drawn = plain.tokens[slots, at.lengths].long()
        both.append((*at, *plainly, moved, drawn))
    for one, other in zip(*both, strict=True):
        assert torch.equal(one, other)
    lengths = both[0][2]
    wrong = torch.rand(len(slots), device=GPU) < 0.2
    drawn = torch.where(wrong, torch.randint(-2, VOCABULARY, wrong.shape, device=GPU), both[0][-1])
    found = [drawn.clone(), drawn.clone()]
    for kept, table in zip(found, (ours, plain), strict=True):
        verify(kept, slots, lengths, codes, table)
    assert torch.equal(*found)
    same(ours, plain)


def test_drafts_are_placed() -> None:
    ours, plain = tables()
    slots = torch.randperm(SLOTS, device=GPU)[:65]
    drafts = torch.randint(-20, VOCABULARY + 20, (65, MOST), device=GPU)
    wanted = torch.randint(1, MOST + 1, (65,), device=GPU)
    where = slots, plain.lengths[slots]
    counts = [place_drafts(drafts, wanted, *where, table, VOCABULARY) for table in (ours, plain)]
    assert torch.equal(*counts)
    same(ours, plain)


@pytest.mark.parametrize(("least", "longest", "each"), [(1, 3, 0), (3, 4, 0), (1, 32, 2)])
def test_runs_are_those_that_a_cpu_finds(least: int, longest: int, each: int) -> None:
    tokens = torch.randint(0, 40, (SLOTS, LENGTH), dtype=torch.int32)
    # Some repeat what stood a while before.
    tokens[::3, 500:700] = tokens[::3, 100:300]
    slots = torch.randperm(SLOTS)
    lengths = torch.randint(1, LENGTH, (SLOTS,))
    lengths[slots % 3 == 0] = torch.randint(501, 700, (int((slots % 3 == 0).sum()),))
    lengths[:2] = torch.tensor([1, 2])
    expected = Lookup(least, longest, each)(tokens, slots, lengths, MOST)
    on_gpu = tokens.to(GPU), slots.to(GPU), lengths.to(GPU)
    found = TritonLookup(least, longest, each)(*on_gpu, MOST)
    assert torch.equal(found.cpu(), expected)
    assert (expected >= 0).any() and (expected < 0).any()
