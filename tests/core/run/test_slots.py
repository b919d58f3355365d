"""What the device knows of sequences that enter."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.core.request import SamplingParams
from quire.core.run.slots import SlotTable
from quire.core.step import Newcomer

TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12)


@given(st.dictionaries(st.integers(0, 4), TOKENS))
def test_newcomers_replace_their_slots_and_no_other(known: dict[int, list[int]]) -> None:
    table = SlotTable(max_slots=5, max_model_len=16, block_size=4, device=torch.device("cpu"))
    table.tokens.fill_(-7)
    table.enter(
        [Newcomer(slot, ids, len(ids), 0, SamplingParams(), [], []) for slot, ids in known.items()]
    )
    for slot in range(6):
        ids = known.get(slot, [])
        assert table.tokens[slot].tolist() == ids + [-7] * (16 - len(ids))
        assert table.lengths[slot] == max(len(ids), 1)
