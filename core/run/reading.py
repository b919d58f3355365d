"""A speculator's own model reads what sequences know, before drafts go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..contracts.speculator import Drafting, HostRows, Reader, Speculator
from ..step import Plan, Row
from .chunk_graphs import ChunkGraphs
from .forward import forward, needs_lengths
from .slots import SlotTable
from .staging import Staging
from .watch import Watch

__all__ = ("Reading", "make_reading")


class _Piece(NamedTuple):
    """What is computed at once, by row, rows of one token first.

    Attributes:
        rows: int64 [R], of the call.
        starts: int64 [R], how far before a row's end the first token stands.
        counts: int64 [R], tokens.
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


class Reading:
    """Computes tokens of sequences with a reader.

    Args:
        reader: of the speculator.
        max_tokens: to compute at once.
        staging: to where the reader is.
        graphs: runs the reader's small steps; None where none are captured.
    """

    def __init__(
        self, reader: Reader, max_tokens: int, staging: Staging, graphs: ChunkGraphs | None = None
    ) -> None:
        self.graphs = graphs
        self._reader = reader
        # Launching a step kernel by kernel takes longer than two graphs.
        self._most_tokens = max_tokens if graphs is None else graphs.most_tokens
        self._staging = staging

    def catch_up(
        self, host: HostRows, lacking: np.ndarray, drafting: Callable[[], Drafting]
    ) -> None:
        """Have the reader compute what it lacks.

        Args:
            host: the rows.
            lacking: int64 [N], tokens before the last ones that the reader leaves.
            drafting: the same rows on the device; asked for only where it is needed.
        """
        for piece in self._pieces(lacking):
            if not self._captured(host, piece):
                self._compute(drafting(), piece)

    def _pieces(self, lacking: np.ndarray) -> Iterator[_Piece]:
        """No more tokens at once than a step has, and no row twice."""
        parts: list[tuple[int, int, int]] = []
        room = self._most_tokens
        for row in np.flatnonzero(lacking).tolist():
            left = int(lacking[row])
            while left:
                count = min(left, room)
                parts.append((row, left + self._reader.leaves, count))
                left -= count
                room -= count
                if left or not room:
                    yield _piece(parts)
                    parts, room = [], self._most_tokens
        if parts:
            yield _piece(parts)

    def _captured(self, host: HostRows, piece: _Piece) -> bool:
        """Launch a piece as a graph, if the host knows where its tokens stand."""
        slack = host.slack[piece.rows]
        if self.graphs is None or slack.any():
            return False
        starts = (host.longest[piece.rows] - piece.starts).tolist()
        where = zip(host.slots[piece.rows].tolist(), starts, piece.counts.tolist(), strict=True)
        rows = [Row(slot, start, count, [], False) for slot, start, count in where]
        return self.graphs.run(Plan(0, [], rows)) is not None

    def _compute(self, drafting: Drafting, piece: _Piece) -> None:
        rows, start, count = piece
        offsets = np.concatenate(([0], np.cumsum(count)))
        shift = np.arange(offsets[-1]) - np.repeat(offsets[:-1] + start, count)
        parts = (np.repeat(rows, count), shift, rows, offsets, count - start)
        row_of, shifts, which, query_start, ends = self._staging.send(parts)
        positions = drafting.lengths[row_of] + shifts
        slots = drafting.slots[row_of]
        size = self._reader.attention.block_size
        blocks = drafting.blocks[slots, positions // size].long()
        batch = AttentionBatch(
            query_start=query_start.to(torch.int32),
            lengths=(drafting.lengths[which] + ends).to(torch.int32),
            block_tables=drafting.blocks[drafting.slots[which]],
            write_slots=blocks * size + positions % size,
            num_decodes=int((count == 1).sum()),
            query_lengths=count.tolist(),
            host_lengths=(self._lengths(drafting)[rows] + count - start).tolist(),
        )
        token_ids = drafting.tokens[slots, positions].long()
        forward(self._reader.model, self._reader.attention, token_ids, positions, batch)

    def _lengths(self, drafting: Drafting) -> np.ndarray:
        """Tokens of each row, or bounds where the attention needs no more."""
        if not needs_lengths(self._reader.attention, drafting.slots.device):
            return drafting.host.longest
        lengths: np.ndarray = drafting.lengths.cpu().numpy()
        return lengths


def make_reading(
    speculator: Speculator, table: SlotTable, max_tokens: int, *, captures: bool
) -> Reading | None:
    """Of a speculator's reader; None where it has none.

    Args:
        speculator: asked.
        table: the slot table.
        max_tokens: of a step.
        captures: whether to run small steps as graphs, if the reader's attention can.
    """
    reader = speculator.reader()
    if reader is None:
        return None
    watch = Watch(reader.model, reader.attention, table, None)
    graphs = None
    if captures and watch.captures_chunks:
        graphs = ChunkGraphs(watch, table, None, max_tokens=max_tokens)
    return Reading(reader, max_tokens, table.staging, graphs)


def _piece(parts: list[tuple[int, int, int]]) -> _Piece:
    """Of rows with starts and counts."""
    parts = sorted(parts, key=lambda part: part[2] > 1)
    return _Piece(*np.array(parts, dtype=np.int64).T)
