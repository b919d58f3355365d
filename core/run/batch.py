"""From a plan to the tensors of a step, with one copy to the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..contracts.attention import AttentionBatch, Chosen
from ..step import Plan
from .slot_kernels import LAST, OFFSET
from .slots import SlotTable

__all__ = ("Batch", "Draws", "PlanRows", "make_batch")

# Tokens of a step for each one that is wanted, from which on the others are left out.
_LEFT_OUT = 2


@dataclass(slots=True)
class Draws:
    """The M draws of a step: one for each row that samples, and one more for each of its drafts.

    Attributes:
        rows: the index in the plan of each one's row, in order.
        host_slots: their slots, on the host.
        slots: the same, int64 [M] on the device.
        lengths: int64 [M], tokens before each of them; the draw stands at this position.
        verifies: whether a row has drafts, or has had since the host last knew how many tokens the
            device has.
        codes: int64 [M], how draws stand to drafts, if ``verifies`` and nobody has compared them
            yet; see ``slot_kernels``.
    """

    rows: list[int]
    host_slots: list[int]
    slots: torch.Tensor
    lengths: torch.Tensor
    verifies: bool = False
    codes: torch.Tensor | None = None


@dataclass(slots=True)
class Batch:
    """A step's inputs. T tokens in R rows, with M draws.

    Attributes:
        token_ids: int64 [T].
        slots: int64 [T].
        positions: int64 [T].
        attention: geometry for the attention backend.
        draws: of the rows that draw.
        last_tokens: int64 [M], index among the T tokens of that before each draw; None when that
            is the identity, or where tokens are chosen.
        ending: the same geometry with the M tokens chosen, or the step's last one where nobody
            draws; None where all hidden states are wanted.
    """

    token_ids: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    attention: AttentionBatch
    draws: Draws
    last_tokens: torch.Tensor | None
    ending: AttentionBatch | None = None


class PlanRows:
    """A plan's rows as arrays, R of them with T tokens in all.

    Attributes:
        slots, starts, counts, ends: int64 [R].
        offsets: int64 [R + 1], of the rows in the tokens.
        drawing: int64 [M], the row of each draw.
        floating: rows whose start the device alone knows.
        verifies: whether drafts are verified, or have been since the host last knew lengths.
    """

    def __init__(self, plan: Plan, table: SlotTable, *, exact: bool) -> None:
        rows = plan.rows
        self.slots = np.array([row.slot for row in rows], dtype=np.int64)
        self.starts = np.array([row.start for row in rows], dtype=np.int64)
        self.counts = np.array([row.count for row in rows], dtype=np.int64)
        self.drafts = np.array([row.drafts for row in rows], dtype=np.int64)
        slack = np.array([row.slack for row in rows], dtype=np.int64)
        self.floating = (slack > 0).nonzero()[0]
        if exact and len(self.floating):
            known = table.lengths[torch.from_numpy(self.slots[self.floating]).to(table.device)]
            self.starts[self.floating] = known.cpu().numpy() - 1
            self.floating = self.floating[:0]
        self.ends = self.starts + self.counts
        self.offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(self.counts, out=self.offsets[1:])
        # Each draw's row, and how many draws of the row come before it.
        drawing = np.array([index for index, row in enumerate(rows) if row.samples], dtype=np.int64)
        draws = self.drafts[drawing] + 1
        self.drawing = np.repeat(drawing, draws)
        self.order = np.arange(len(self.drawing)) - np.repeat(np.cumsum(draws) - draws, draws)
        self.behind = self.order - self.drafts[self.drawing]
        self.verifies = bool(slack.any() or self.drafts.any())

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """The row and the position of each token, int64 [T]."""
        total = int(self.offsets[-1])
        if total == len(self.slots):
            return np.arange(total), self.starts
        row_of = np.repeat(np.arange(len(self.slots)), self.counts)
        return row_of, np.arange(total) - (self.offsets[:-1] - self.starts)[row_of]


def make_batch(plan: Plan, table: SlotTable, *, exact: bool = True, chooses: bool = False) -> Batch:
    """Gather the plan's rows from the slot table, whose block tables are up to date.

    Args:
        plan: of the step.
        table: the slot table.
        exact: whether the attention backend must know true lengths on the host, if need be by
            waiting for the device; otherwise bounds from above will do.
        chooses: whether nobody wants hidden states but to draw from them.
    """
    rows = PlanRows(plan, table, exact=exact)
    total = int(rows.offsets[-1])
    row_of, positions = rows.tokens()
    draw_slots = rows.slots[rows.drawing]
    sent = table.staging.send(
        (
            rows.slots[row_of],
            positions,
            rows.slots,
            rows.offsets,
            rows.ends,
            draw_slots,
            rows.ends[rows.drawing] + rows.behind,
            rows.offsets[rows.drawing + 1] - 1 + rows.behind,
            (rows.order << OFFSET) + LAST * (rows.behind == 0),
        )
    )
    token_slots, positions_d, slots, offsets, ends, drawing, lengths, last, codes = sent
    if len(rows.floating):
        late = _late(rows, table, slots)
        on_device = table.staging.send((row_of, rows.drawing))
        positions_d = positions_d - late[on_device[0]]
        ends, lengths = ends - late, lengths - late[on_device[1]]
    most_blocks = -(-int(rows.ends.max()) // table.block_size)
    token_ids, write_slots = table.read(token_slots, positions_d)
    attention = AttentionBatch(
        query_start=offsets.to(torch.int32),
        lengths=ends.to(torch.int32),
        block_tables=table.blocks[:, :most_blocks].index_select(0, slots),
        write_slots=write_slots,
        num_decodes=int((rows.counts == 1).sum()),
        query_lengths=rows.counts.tolist(),
        host_lengths=rows.ends.tolist(),
    )
    draws = Draws(rows.drawing.tolist(), draw_slots.tolist(), drawing, lengths, rows.verifies)
    if rows.verifies:
        draws.codes = codes
    ending = None
    if chooses and total >= _LEFT_OUT * max(len(draws.rows), 1):
        ending = _ending(rows, table, attention, draws, last)
    return Batch(
        token_ids=token_ids,
        slots=token_slots,
        positions=positions_d,
        attention=attention,
        draws=draws,
        last_tokens=None if ending is not None or len(draws.rows) == total else last,
        ending=ending,
    )


def _ending(
    rows: PlanRows, table: SlotTable, batch: AttentionBatch, draws: Draws, last: torch.Tensor
) -> AttentionBatch:
    """The batch with the tokens before its draws chosen; see ``Batch.ending``."""
    slots, lengths = draws.slots, draws.lengths
    host_lengths = rows.ends[rows.drawing] + rows.behind
    if not draws.rows:
        host_lengths = rows.ends[-1:]
        final = (rows.slots[-1:], host_lengths, rows.offsets[-1:] - 1)
        slots, lengths, last = table.staging.send(final)
    count = len(host_lengths)
    return AttentionBatch(
        query_start=torch.arange(count + 1, dtype=torch.int32, device=table.device),
        lengths=lengths.to(torch.int32),
        block_tables=table.blocks[:, : batch.block_tables.shape[1]].index_select(0, slots),
        write_slots=batch.write_slots.index_select(0, last),
        num_decodes=count,
        query_lengths=[1] * count,
        host_lengths=host_lengths.tolist(),
        chosen=Chosen(last, batch.write_slots),
    )


def _late(rows: PlanRows, table: SlotTable, slots: torch.Tensor) -> torch.Tensor:
    """int64 [R], by how much each row's start is too far on."""
    late = torch.zeros_like(slots)
    (floating, starts) = table.staging.send((rows.floating, rows.starts[rows.floating]))
    late[floating] = starts + 1 - table.lengths[slots[floating]]
    return late
