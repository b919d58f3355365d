"""The slot table: what the device remembers of every running sequence between steps."""

from __future__ import annotations

import numpy as np
import torch

from ..step import Newcomer, Row
from .inbox import Copies, Inbox
from .mailbox import Mailbox
from .slot_kernels import FLOATING, OFFSET, Located, SlotKernels
from .staging import Staging

__all__ = ("SlotTable",)


class SlotTable:
    """Tokens and block tables, one row a slot, on the device; the last row is nobody's.

    Drawn tokens are written here by the step that draws them, and the next step gathers its input
    from here, so a token need not visit the host in between.

    Attributes:
        tokens: int32 [max_slots + 1, max_model_len + max_drafts]; a row is valid up to what the
            slot knows, and drafts stand behind that.
        lengths: int64 [max_slots + 1], tokens that the slot knows, since it last verified drafts.
        blocks: int32 [max_slots + 1, max_blocks]; 0, the null block, beyond the table's end.
        padding: the last row, which rows that fill up a captured step read and write.
        max_model_len: tokens of one sequence, at most.
        max_drafts: of one sequence.
        kernels: that do in captured steps what is torch's operators where None.

    Args:
        max_slots: sequences that may run at once.
        max_model_len: tokens of one sequence.
        block_size: tokens a block.
        device: where the tables live.
        max_drafts: of one sequence.
        kernels: of the platform, if it has any.
    """

    def __init__(
        self,
        *,
        max_slots: int,
        max_model_len: int,
        block_size: int,
        device: torch.device,
        max_drafts: int = 0,
        kernels: SlotKernels | None = None,
    ) -> None:
        self.block_size = block_size
        self.device = device
        self.padding = max_slots
        self.max_model_len = max_model_len
        self.max_drafts = max_drafts
        self.kernels = kernels
        self.staging = Staging(device)
        width = max_model_len + max_drafts
        self.tokens = torch.zeros(max_slots + 1, width, dtype=torch.int32, device=device)
        self.lengths = torch.ones(max_slots + 1, dtype=torch.int64, device=device)
        max_blocks = -(-width // block_size)
        self.blocks = torch.zeros(max_slots + 1, max_blocks, dtype=torch.int32, device=device)
        # Indexing a few elements, numpy is ten times as fast as torch.
        on_host = device.type == "cpu"
        shared = (self.tokens, self.blocks, self.lengths)
        self._host = tuple(table.numpy() for table in shared) if on_host else None
        self._num_blocks = [0] * max_slots
        self._first_blocks = np.zeros(max_slots, dtype=np.int64)

    def enter(self, newcomers: list[Newcomer]) -> None:
        """Replace the tokens of slots, in one copy; their block tables start empty."""
        if not newcomers:
            return
        slots = np.array([newcomer.slot for newcomer in newcomers], dtype=np.int64)
        ids = [np.asarray(newcomer.token_ids, dtype=np.int64) for newcomer in newcomers]
        counts = np.array([len(known) for known in ids], dtype=np.int64)
        columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        parts = slots, counts, np.repeat(slots, counts), columns, np.concatenate(ids)
        slot, length, at, column, token = self.staging.send(parts)
        self.tokens[at, column] = token.to(torch.int32)
        self.lengths[slot] = length
        for newcomer in newcomers:
            self._num_blocks[newcomer.slot] = 0

    def grown(self, rows: list[Row]) -> np.ndarray:
        """The blocks that rows bring, which the host takes for appended: int64 [3 * N], their
        slots, their columns of the table, and their numbers."""
        slots: list[int] = []
        columns: list[int] = []
        blocks: list[int] = []
        for row in rows:
            if not row.new_blocks:
                continue
            start = self._num_blocks[row.slot]
            count = len(row.new_blocks)
            if not start:
                self._first_blocks[row.slot] = row.new_blocks[0]
            slots += [row.slot] * count
            columns += range(start, start + count)
            blocks += row.new_blocks
            self._num_blocks[row.slot] = start + count
        return np.array(slots + columns + blocks, dtype=np.int64)

    def append(self, new: np.ndarray) -> None:
        """Append blocks, see ``grown``, in one copy."""
        if not len(new):
            return
        (sent,) = self.staging.send((new,))
        if self.kernels is not None:
            self.kernels.append(sent, self.blocks)
        else:
            at, column, block = sent.view(3, -1)
            self.blocks[at, column] = block.to(torch.int32)

    def read(
        self, slots: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens at these positions of these slots, and where in the cache they belong.

        Args:
            slots: int64 [T].
            positions: int64 [T].

        Returns:
            Token ids and block id * block size + offset, int64 [T] each.
        """
        size = self.block_size
        if self._host is not None:
            tokens, blocks, _ = self._host
            at, where = slots.numpy(), positions.numpy()
            starts = blocks[at, where // size].astype(np.int64) * size
            ids = tokens[at, where].astype(np.int64)
            return torch.from_numpy(ids), torch.from_numpy(starts + where % size)
        begins = self.blocks[slots, positions // size].long() * size
        return self.tokens[slots, positions].long(), begins + positions % size

    def mailbox(self, most: int) -> Mailbox | None:
        """For so many numbers a step; None where they are to be copied."""
        return None if self.kernels is None else Mailbox(self.kernels, most, self.device)

    def inbox(self, numbers: torch.Tensor, most_blocks: int = 0) -> Inbox | Copies:
        """What brings captured launches their numbers, and up to so many blocks with them."""
        if self.kernels is None:
            return Copies(self.staging, numbers)
        return Inbox(self.kernels, numbers, self.blocks, most_blocks)

    def places(self, rows: int) -> Located:
        """Room for ``locate``."""
        numbers = [self.lengths.new_zeros(rows) for _ in range(4)]
        return Located(
            token_ids=numbers[0],
            positions=numbers[1],
            lengths=numbers[2],
            counts=self.blocks.new_zeros(rows),
            write_slots=numbers[3],
            block_tables=self.blocks.new_zeros(rows, self.blocks.shape[1]),
        )

    def locate(
        self,
        slots: torch.Tensor,
        starts: torch.Tensor,
        codes: torch.Tensor | None,
        out: Located,
        *,
        advances: bool,
    ) -> None:
        """Find the next token of each row of a decode step, and where it belongs.

        Args:
            slots: int64 [M].
            starts: int64 [M], positions, as far as the host knows.
            codes: int64 [M], where drafts are verified, see ``slot_kernels``; else None.
            out: of M rows, to be filled.
            advances: whether to have ``starts`` a token further on, padding excepted, as the next
                step needs them.
        """
        size = self.block_size
        if self.kernels is not None:
            self.kernels.locate(
                slots,
                starts,
                codes,
                self.tokens,
                self.lengths,
                self.blocks,
                out=out,
                block_size=size,
                advances=advances,
            )
            return
        out.positions.copy_(starts)
        if codes is not None:
            known = self.lengths[slots] - 1 + (codes >> OFFSET)
            out.positions.copy_(torch.where((codes & FLOATING).bool(), known, starts))
        token_ids, write_slots = self.read(slots, out.positions)
        out.token_ids.copy_(token_ids)
        out.write_slots.copy_(write_slots)
        torch.add(out.positions, 1, out=out.lengths)
        out.counts.copy_(out.lengths)
        out.block_tables.copy_(self.blocks[slots])
        if advances:
            starts.add_(slots != self.padding)

    def write(self, slots: torch.Tensor, positions: torch.Tensor, drawn: torch.Tensor) -> None:
        """Put draws at positions of slots, int64 [M] or what broadcasts to the same shape.

        A failed one is kept as a harmless 0.
        """
        if self._host is not None:
            self._host[0][slots.numpy(), positions.numpy()] = drawn.numpy().clip(min=0)
        else:
            self.tokens[slots, positions] = drawn.clamp(min=0).to(torch.int32)

    def note(self, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Note that the last tokens that slots know stand at these positions, int64 [M] each."""
        if self._host is not None:
            self._host[2][slots.numpy()] = positions.numpy() + 1
        else:
            self.lengths[slots] = positions + 1

    def by_prefix(self, slots: np.ndarray) -> tuple[np.ndarray, bool]:
        """An order in which slots that begin with the same block stand together.

        Args:
            slots: int64 [N].

        Returns:
            int64 [N], indices into ``slots``, and whether at least half of them have a neighbour
            like that; if not, the order is the given one.
        """
        if len(slots) > 1:
            first = self._first_blocks[slots]
            order = first.argsort(kind="stable")
            ordered = first[order]
            if 2 * np.count_nonzero(ordered[1:] == ordered[:-1]) >= len(slots):
                return order, True
        return np.arange(len(slots)), False
