"""Slot tables with the same contents, to see what kernels and torch's operators make of them."""

from typing import Any

import torch

from quire.backends.kernels.slots import TritonSlots
from quire.core.run.slots import SlotTable

__all__ = ("same", "tables")


def tables(seed: int, *, vocabulary: int, num_blocks: int, **options: Any) -> list[SlotTable]:
    """One with kernels and one without, filled at random."""
    generator = torch.Generator().manual_seed(seed)
    ours, plain = (SlotTable(kernels=kernels, **options) for kernels in (TritonSlots(), None))
    longest = options["max_model_len"] - options["max_drafts"]
    for name, (low, high) in {
        "tokens": (0, vocabulary),
        "blocks": (1, num_blocks),
        "lengths": (1, longest),
    }.items():
        part = getattr(plain, name)
        part.copy_(torch.randint(low, high, part.shape, generator=generator))
        getattr(ours, name).copy_(part)
    return [ours, plain]


def same(ours: SlotTable, plain: SlotTable) -> None:
    for name in ("tokens", "blocks", "lengths"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name
