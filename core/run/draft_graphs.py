"""Proposals as CUDA graphs: drafting is many small launches, which a host cannot make in time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.speculator import Drafting, HostRows, Speculator
from ..step import Row
from .capture import LONG_PATIENCE, CapturedShapes
from .graph_sizes import (
    graph_length,
    graph_lengths,
    graph_rows,
    graph_sizes,
    holding_sizes,
    stand_in_rows,
)
from .inbox import Copies, Inbox
from .mailbox import Mailbox
from .sample import Sampler
from .slots import SlotTable
from .staging import Numbers, aligned
from .verify import place_drafts

__all__ = ("DraftGraphs", "Loaded")


class _Shape(NamedTuple):
    """What a call is captured for: rows, drafts of each, the longest row's tokens with its drafts,
    and whether drawing filters."""

    rows: int
    most: int
    longest: int
    filters: bool = False


class _Graph(NamedTuple):
    replay: Callable[[], None]
    counts: torch.Tensor


class _Asked(NamedTuple):
    """A call's slots and how many drafts each wants, on the host."""

    slots: list[int]
    wanted: list[int]


class Loaded(NamedTuple):
    """A call whose rows are in place.

    Attributes:
        size: N.
        graph: drafts.
        inbox: that brings the rows.
        mailbox: where it posts how many; None where it does not.
    """

    size: int
    graph: _Graph
    inbox: Inbox | Copies
    mailbox: Mailbox | None

    def launch(self) -> Numbers:
        """Draft and put the drafts into the slot table: N numbers, how many for each row."""
        self.graph.replay()
        self.inbox.launched()
        if self.mailbox is None:
            return self.graph.counts[: self.size]
        return self.mailbox.posted(self.size)


class DraftGraphs(CapturedShapes[_Shape, _Graph]):
    """Drafts for rows whose requests the sampler's kernels can draw for.

    Rows and drafts are rounded up to few numbers, so that few graphs, captured while nothing runs,
    serve every call. One whose graph is missing runs in a larger one; where there is none either,
    one for as many rows as take little longer is captured at once, as drafting without takes long.

    Args:
        speculator: with the feature ``graphs``.
        table: the slot table.
        sampler: draws.
        max_rows: of a call.
        max_drafts: of a row.
    """

    def __init__(
        self,
        speculator: Speculator,
        table: SlotTable,
        sampler: Sampler,
        *,
        max_rows: int,
        max_drafts: int,
    ) -> None:
        super().__init__(table.device)
        self._speculator = speculator
        self._table = table
        self._sampler = sampler
        self._sizes = graph_sizes(max_rows)
        parallel = "parallel" in speculator.capabilities.features
        doublings = () if parallel else (1 << power for power in range(max_drafts.bit_length()))
        self._lengths = sorted({*doublings, max_drafts})
        self._longest = table.tokens.shape[1]
        room = 2 * aligned(self._sizes[-1])
        # Somebody's, where kernels are only compiled and nothing is received.
        self._inputs = torch.zeros(room, dtype=torch.int64, device=table.device)
        # What is in place: the next call is often for the same rows.
        self._sent: tuple[int, _Asked] | None = None
        self._inbox = table.inbox(self._inputs)
        self._mailbox = table.mailbox(self._sizes[-1])

    def load(self, rows: list[Row]) -> Loaded | None:
        """Put rows that ask for drafts in place; None if what their requests ask for needs the
        host."""
        asked = _Asked([row.slot for row in rows], [row.propose for row in rows])
        if not self._sampler.graphable(asked.slots):
            return None
        count, longest_chain = len(rows), max(asked.wanted)
        most = next(length for length in self._lengths if length >= longest_chain)
        longest = max([row.start + row.count for row in rows]) + 1 + longest_chain
        longest = graph_length(longest, self._longest)
        filters = self._sampler.filters(asked.slots)
        shape, graph = self._find(_Shape(graph_rows(count), most, longest, filters))
        if graph is None:
            raise RuntimeError("a proposal is captured where nothing holds it")
        self._fill(shape.rows, asked)
        return Loaded(count, graph, self._inbox, self._mailbox)

    def capture_largest(self) -> None:
        self._graph(_Shape(self._sizes[-1], self._lengths[-1], self._longest, filters=True))

    def _shapes_for_one(self) -> Iterator[_Shape]:
        rows = stand_in_rows(self._sizes, 1)
        left = self._lengths
        while left:
            for filters in (False, True):
                yield _Shape(rows, left[-1], self._longest, filters)
            left = [most for most in left if 2 * most < left[-1]]

    def _shapes_to_come(self) -> Iterator[_Shape]:
        """Of any number of rows and any length: first long chains, which short ones can run in."""
        chains, lengths = reversed(self._lengths), graph_lengths(self._longest)
        for filters, most, longest in itertools.product((False, True), chains, lengths):
            for rows in self._sizes:
                yield _Shape(rows, most, longest, filters)

    def _patience(self, shape: _Shape) -> int:
        return LONG_PATIENCE

    def _stand_in(self, shape: _Shape) -> _Shape:
        return shape._replace(rows=stand_in_rows(self._sizes, shape.rows))

    def _shapes_that_hold(self, shape: _Shape) -> Iterator[_Shape]:
        for most in self._lengths:
            if shape.most <= most <= 2 * shape.most:
                for rows in holding_sizes(self._sizes, shape.rows):
                    held = shape._replace(rows=rows, most=most)
                    yield held
                    yield held._replace(longest=self._longest)

    def _key(self, shape: _Shape) -> Hashable:
        key = self._speculator.graph_key(shape.rows, shape.longest)
        return shape.rows, shape.most, shape.filters, key

    def _capture(self, shape: _Shape) -> _Graph:
        self._fill(shape.rows, _Asked([], []))
        try:
            return _Graph(*self._capturing(lambda: self._work(shape)))
        finally:
            self._inbox.recount()
            if self._mailbox is not None:
                self._mailbox.recount()

    def _fill(self, size: int, asked: _Asked) -> None:
        self._inbox.begin()
        if self._sent == (size, asked):
            return
        room, count = aligned(size), len(asked.slots)
        values = np.full(2 * room, self._table.padding, dtype=np.int64)
        values[:count] = asked.slots
        values[room:] = 1
        values[room : room + count] = asked.wanted
        self._inbox.write(values)
        self._sent = size, asked

    def _work(self, shape: _Shape) -> torch.Tensor:
        table, size, most = self._table, shape.rows, shape.most
        self._inbox.receive()
        slots, wanted = self._inputs[:size], self._inputs[aligned(size) :][:size]
        lengths = table.lengths[slots]

        def draw(logits: torch.Tensor, rows: torch.Tensor | None, index: int) -> torch.Tensor:
            drawn = torch.empty_like(slots)
            self._sampler.draw_static(
                logits, slots, lengths + index, drawn, tokens=table.tokens, filters=shape.filters
            )
            return drawn.clamp(-1, self._sampler.vocab_size - 1)

        host = HostRows(
            slots=np.zeros(size, dtype=np.int64),
            longest=np.full(size, shape.longest, dtype=np.int64),
            slack=np.zeros(size, dtype=np.int64),
            wanted=np.full(size, most, dtype=np.int64),
            verified=np.zeros(size, dtype=np.int64),
        )
        drafting = Drafting(
            slots=slots,
            lengths=lengths,
            wanted=wanted,
            most=most,
            tokens=table.tokens,
            blocks=table.blocks,
            draw=draw,
            host=host,
        )
        drafts = self._speculator.propose(drafting)
        counts = place_drafts(drafts, wanted, slots, lengths, table, self._sampler.vocab_size)
        if self._mailbox is not None:
            self._mailbox.post(counts)
        return counts
