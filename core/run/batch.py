"""From a plan to the tensors of a step, with one copy to the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..step import Plan
from .slots import SlotTable

__all__ = ("Batch", "Draws", "make_batch")


@dataclass(slots=True)
class Draws:
    """The M rows of a step that draw a token.

    Attributes:
        rows: their indices in the plan, in order.
        host_slots: their slots, on the host.
        slots: the same, int64 [M] on the device.
        lengths: int64 [M], tokens each of them knows; the draw stands at this position.
    """

    rows: list[int]
    host_slots: list[int]
    slots: torch.Tensor
    lengths: torch.Tensor


@dataclass(slots=True)
class Batch:
    """A step's inputs. T tokens in R rows, M of which draw.

    Attributes:
        token_ids: int64 [T].
        positions: int64 [T].
        attention: geometry for the attention backend.
        draws: the rows that draw.
        last_tokens: int64 [M], index among the T tokens of each drawing row's last one; None when
            that is the identity.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    attention: AttentionBatch
    draws: Draws
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
    draw_rows = [index for index, row in enumerate(rows) if row.samples]
    drawing = np.array(draw_rows, dtype=np.int64)
    if total == len(rows):
        token_slots, positions = slots, starts
    else:
        token_slots = np.repeat(slots, counts)
        positions = np.arange(total) - np.repeat(offsets[:-1] - starts, counts)
    token_slots_d, positions_d, slots_d, offsets_d, ends_d, draw_slots, lengths, last = (
        table.staging.send(
            (
                token_slots,
                positions,
                slots,
                offsets,
                ends,
                slots[drawing],
                ends[drawing],
                offsets[drawing + 1] - 1,
            )
        )
    )
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
        draws=Draws(draw_rows, slots[drawing].tolist(), draw_slots, lengths),
        last_tokens=None if len(draw_rows) == total else last,
    )
