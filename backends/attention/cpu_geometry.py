"""Geometry of a step on the CPU: which blocks each row reads, and which rows read together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...core.contracts.attention import AttentionBatch
from .cpu_tiles import SEGMENT

__all__ = ("DecodeGroup", "Geometry", "Layout", "PromptRow", "Step", "plan_step")

_GROUP_BYTES = 4 * 2**20
"""Keys and values gathered at once; larger groups of rows are split."""
_FEW_QUERIES = 16
_FEW_KEYS = 8192
"""Queries of a row, and keys of all of them, up to which rows are taken apart."""
_SMALL_LENGTH = 256
"""Rows up to this long share a group whatever their lengths: padding costs less than a call."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What layers must share to share a geometry.

    Attributes:
        window: sliding window, or None.
        num_kv_heads: of the layer.
        head_dim: of the layer.
        fewest_keys: that a single query is multiplied by; the null block's fill others up.
    """

    window: int | None
    num_kv_heads: int
    head_dim: int
    fewest_keys: int


@dataclass(slots=True)
class DecodeGroup:
    """Rows of one query each that attend in one call.

    Attributes:
        rows: which of the T tokens, B indices or a slice.
        count: B.
        span: (first slot, positions) when one row's blocks stand in a line: nothing is gathered.
        index: int64 [2, B * kv heads, blocks], block rows of keys and then values to gather.
        mask: float32 [B * kv heads, 1, positions], or [1, 1, positions] for one row, 0 or -inf;
            None when all rows see all of them.
    """

    rows: list[int] | slice
    count: int
    span: tuple[int, int] | None = None
    index: torch.Tensor | None = None
    mask: torch.Tensor | None = None


@dataclass(slots=True)
class PromptRow:
    """A row of several queries.

    Attributes:
        begin: its first of the T tokens.
        end: one past its last.
        first: position of the first query.
        base: position of the first key that is read.
        span: (first slot, positions) of the keys when their blocks stand in a line.
        index: int64 [2, kv heads, blocks] otherwise.
    """

    begin: int
    end: int
    first: int
    base: int
    span: tuple[int, int] | None = None
    index: torch.Tensor | None = None


@dataclass(slots=True)
class Geometry:
    """A step's rows, as layers of one layout read them.

    Attributes:
        groups: of the rows with one query.
        prompts: the others.
        alone: whether one group holds every row, in order.
    """

    groups: list[DecodeGroup]
    prompts: list[PromptRow]
    alone: bool


@dataclass(slots=True)
class Step:
    """What ``prepare`` hands to ``attend``.

    Attributes:
        write_slots: of the batch.
        fresh: int64, blocks begun in this step and not filled by it; None for none.
        geometries: a layout each.
    """

    write_slots: torch.Tensor
    fresh: torch.Tensor | None
    geometries: list[Geometry]


def plan_step(
    batch: AttentionBatch,
    layouts: list[Layout],
    *,
    block_size: int,
    num_blocks: int,
    kv_bytes: int,
) -> Step:
    """Work out a step once for every layout.

    Args:
        batch: of the step, on the CPU.
        layouts: of the layers, each once.
        block_size: tokens a block.
        num_blocks: of the cache.
        kv_bytes: of one element of the cache.
    """
    unfolded = _unfolded(batch)
    geometries = [
        _Planner(unfolded, layout, block_size, num_blocks, kv_bytes).plan() for layout in layouts
    ]
    return Step(batch.write_slots, _fresh_blocks(batch, block_size), geometries)


def _unfolded(batch: AttentionBatch) -> AttentionBatch:
    """Rows of a few queries over few keys as rows of one: several calls a row cost more.

    The first queries of a row see less than the last one, and what they do not see adds zeros.
    """
    counts, lengths = batch.query_lengths, batch.host_lengths
    if batch.num_decodes == len(counts) or max(counts) > _FEW_QUERIES:
        return batch
    if sum(map(int.__mul__, counts, lengths)) > _FEW_KEYS:
        return batch
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    index = torch.tensor(rows)
    host = [
        length - count + 1 + query
        for count, length in zip(counts, lengths, strict=True)
        for query in range(count)
    ]
    return AttentionBatch(
        query_start=torch.arange(len(rows) + 1, dtype=torch.int32),
        lengths=torch.tensor(host, dtype=torch.int32),
        block_tables=batch.block_tables[index],
        write_slots=batch.write_slots,
        num_decodes=len(rows),
        query_lengths=[1] * len(rows),
        host_lengths=host,
    )


def _fresh_blocks(batch: AttentionBatch, block_size: int) -> torch.Tensor | None:
    rows = [
        row
        for row, (count, length) in enumerate(
            zip(batch.query_lengths, batch.host_lengths, strict=True)
        )
        if 0 < length % block_size <= count
    ]
    if not rows:
        return None
    index = torch.tensor(rows)
    return batch.block_tables[index, batch.lengths[index].long() // block_size].long()


class _Planner:
    """One layout's geometry."""

    def __init__(
        self,
        batch: AttentionBatch,
        layout: Layout,
        block_size: int,
        num_blocks: int,
        kv_bytes: int,
    ) -> None:
        self.batch = batch
        self.layout = layout
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.kv_bytes = kv_bytes
        # Block b of head h of the keys is row h * num_blocks + b; the values follow all the keys.
        self.heads = torch.arange(2 * layout.num_kv_heads).view(2, -1, 1) * num_blocks
        self.fewest_blocks = -(-layout.fewest_keys // block_size)

    def plan(self) -> Geometry:
        decodes = self.batch.num_decodes
        groups = [self._group(rows) for rows in self._grouped(decodes)]
        prompts: list[PromptRow] = []
        begin = decodes
        for row in range(decodes, len(self.batch.query_lengths)):
            end = begin + self.batch.query_lengths[row]
            prompts.append(self._prompt(row, begin, end))
            begin = end
        return Geometry(groups, prompts, alone=len(groups) == 1 and not prompts)

    def _first_block(self, position: int) -> int:
        """The block where the segment of the first key begins that a query here sees."""
        window = self.layout.window
        low = 0 if window is None else max(0, position + 1 - window)
        return low // SEGMENT * SEGMENT // self.block_size

    def _blocks(self, row: int, first: int) -> list[int]:
        last = -(-self.batch.host_lengths[row] // self.block_size)
        blocks: list[int] = self.batch.block_tables[row, first:last].tolist()
        return blocks

    def _first_slot(self, blocks: list[int]) -> int | None:
        """The slot that they begin at, when the blocks stand in a line."""
        first, count = blocks[0], len(blocks)
        if blocks[-1] - first + 1 != count or blocks != list(range(first, first + count)):
            return None
        return first * self.block_size

    def _grouped(self, decodes: int) -> Iterator[list[int]]:
        """Decode rows in groups of like lengths, none of which gathers too much."""
        if decodes < 2:
            yield from ([row] for row in range(decodes))
            return
        lengths = self.batch.host_lengths
        needs = [
            -(-lengths[row] // self.block_size) - self._first_block(lengths[row] - 1)
            for row in range(decodes)
        ]
        layout = self.layout
        block_bytes = 2 * layout.num_kv_heads * layout.head_dim * self.block_size
        most = _GROUP_BYTES // (block_bytes * self.kv_bytes)
        small = _SMALL_LENGTH // self.block_size
        if max(needs) <= max(small, 2 * min(needs)) and max(needs) * decodes <= most:
            yield list(range(decodes))
            return
        group: list[int] = []
        for row in sorted(range(decodes), key=needs.__getitem__, reverse=True):
            if group:
                widest = needs[group[0]]
                apart = widest > max(small, 2 * needs[row])
                if apart or widest * (len(group) + 1) > most:
                    yield sorted(group)
                    group = []
            group.append(row)
        yield sorted(group)

    def _group(self, rows: list[int]) -> DecodeGroup:
        where = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        if len(rows) == 1:
            return self._single(rows[0], where)
        lengths = self.batch.lengths[where].long()[:, None]
        tables = self.batch.block_tables[where]
        # Without a window every row starts at 0, as with one of its own length.
        starts = (lengths - (self.layout.window or lengths)).clamp_(min=0)
        first = starts // SEGMENT * SEGMENT // self.block_size
        used = (lengths + (self.block_size - 1)) // self.block_size
        columns = first + torch.arange(max(self.fewest_blocks, int((used - first).max())))
        padding = columns >= used
        blocks = tables.gather(1, columns.clamp(max=tables.shape[1] - 1)).long()
        blocks.masked_fill_(padding, 0)
        index = (self.heads[:, None] + blocks[:, None]).flatten(1, 2)
        offset = first * self.block_size
        mask = self._mask(starts - offset, lengths - offset, columns.shape[1])
        if mask is not None:
            mask = mask.repeat_interleave(self.layout.num_kv_heads, 0)
        return DecodeGroup(where, len(rows), index=index, mask=mask)

    def _mask(self, low: torch.Tensor, high: torch.Tensor, blocks: int) -> torch.Tensor | None:
        """Of rows that see positions [low, high) of so many blocks."""
        at = torch.arange(blocks * self.block_size)
        hidden = (at < low) | (at >= high)
        if not bool(hidden.any()):
            return None
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        return mask[:, None]

    def _single(self, row: int, where: list[int] | slice) -> DecodeGroup:
        length = self.batch.host_lengths[row]
        first = self._first_block(length - 1)
        blocks = self._blocks(row, first)
        offset = first * self.block_size
        start = 0 if self.layout.window is None else max(0, length - self.layout.window)
        blocks += [0] * (self.fewest_blocks - len(blocks))
        positions = len(blocks) * self.block_size
        mask = _row_mask(start - offset, length - offset, positions)
        slot = self._first_slot(blocks)
        if slot is not None:
            return DecodeGroup(where, 1, span=(slot, positions), mask=mask)
        return DecodeGroup(where, 1, index=self.heads + torch.tensor(blocks), mask=mask)

    def _prompt(self, row: int, begin: int, end: int) -> PromptRow:
        length = self.batch.host_lengths[row]
        position = length - (end - begin)
        first = self._first_block(position)
        blocks = self._blocks(row, first)
        prompt = PromptRow(begin, end, position, first * self.block_size)
        slot = self._first_slot(blocks)
        if slot is not None:
            prompt.span = (slot, len(blocks) * self.block_size)
        else:
            prompt.index = self.heads + torch.tensor(blocks)
        return prompt


def _row_mask(low: int, high: int, positions: int) -> torch.Tensor | None:
    """Of a row that sees positions [low, high), as ``DecodeGroup`` has it."""
    if low == 0 and high == positions:
        return None
    mask = torch.zeros(1, 1, positions)
    mask[..., high:] = float("-inf")
    mask[..., :low] = float("-inf")
    return mask
