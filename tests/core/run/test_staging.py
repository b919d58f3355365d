"""Numbers sent to a device in one copy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.core.run.staging import Staging


@given(st.lists(st.lists(st.integers(-(2**60), 2**60), max_size=5), max_size=6))
def test_parts_arrive_and_are_aligned(values: list[list[int]]) -> None:
    sent = Staging(torch.device("cpu")).send([np.array(part, dtype=np.int64) for part in values])
    assert [part.tolist() for part in sent] == values
    assert all(part.storage_offset() * part.itemsize % 16 == 0 for part in sent)
