"""From a plan to the tensors of a step, with one copy to the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..step import Plan
from .slots import SlotTable

__all__ = ("Batch", "make_batch")


@dataclass(slots=True)
class Batch:
    """A step's inputs. T tokens in R rows, M of which draw.

    Attributes:
        token_ids: int64 [T].
        positions: int64 [T].
        attention: geometry for the attention backend.
        sample_rows: indices of the rows that draw, in order.
        sample_slots: their slots, on the host.
        slots: the same, int64 [M] on the device.
        lengths: int64 [M], tokens each of them knows; the draw stands at this position.
        last_tokens: int64 [M], index among the T tokens of each row's last one; None when that is
            the identity.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    attention: AttentionBatch
    sample_rows: list[int]
    sample_slots: list[int]
    slots: torch.Tensor
    lengths: torch.Tensor
    last_tokens: torch.Tensor | None


def make_batch(plan: Plan, table: SlotTable) -> Batch:
    """Gather the plan's rows from the slot table, whose block tables are up to date."""
    rows = plan.rows
    slots = np.array([row.slot for row in rows], dtype=np.int64)
    starts = np.array([row.start for row in rows], dtype=np.int64)
    counts = np.array([row.count for row in rows], dtype=np.int64)
    ends = starts + counts
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    total = int(offsets[-1])
    sample_rows = [index for index, row in enumerate(rows) if row.samples]
    sampling = np.array(sample_rows, dtype=np.int64)
    if total == len(rows):
        token_slots, positions = slots, starts
    else:
        token_slots = np.repeat(slots, counts)
        positions = np.arange(total) - np.repeat(offsets[:-1] - starts, counts)
    parts = (
        token_slots,
        positions,
        slots,
        offsets,
        ends,
        slots[sampling],
        ends[sampling],
        offsets[sampling + 1] - 1,
    )
    packed = torch.from_numpy(np.concatenate(parts)).to(table.device, non_blocking=True)
    views = torch.split_with_sizes(packed, [len(part) for part in parts])
    token_slots_d, positions_d, slots_d, offsets_d, ends_d, sample_slots, lengths, last = views
    most_blocks = -(-int(ends.max()) // table.block_size)
    blocks = table.blocks[token_slots_d, positions_d // table.block_size]
    attention = AttentionBatch(
        query_start=offsets_d.to(torch.int32),
        lengths=ends_d.to(torch.int32),
        block_tables=table.blocks[slots_d, :most_blocks],
        write_slots=blocks.long() * table.block_size + positions_d % table.block_size,
        num_decodes=int((counts == 1).sum()),
        query_lengths=counts.tolist(),
        host_lengths=ends.tolist(),
    )
    return Batch(
        token_ids=table.tokens[token_slots_d, positions_d].long(),
        positions=positions_d,
        attention=attention,
        sample_rows=sample_rows,
        sample_slots=slots[sampling].tolist(),
        slots=sample_slots,
        lengths=lengths,
        last_tokens=None if len(sample_rows) == total else last,
    )
