"""Proposals as CUDA graphs: drafting is many small launches, which a host cannot make in time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.speculator import Drafting, HostRows, Speculator
from .capture import Capturing
from .graphs import graph_rows
from .sample import Sampler
from .slots import SlotTable
from .verify import place_drafts

__all__ = ("DraftGraphs",)


class _Graph(NamedTuple):
    replay: Callable[[], None]
    counts: torch.Tensor


class DraftGraphs:
    """Drafts for rows whose requests the sampler's kernels can draw for.

    Args:
        speculator: with the feature ``graphs``.
        table: the slot table.
        sampler: draws.
        max_rows: of a call.
    """

    def __init__(
        self, speculator: Speculator, table: SlotTable, sampler: Sampler, max_rows: int
    ) -> None:
        self._speculator = speculator
        self._table = table
        self._sampler = sampler
        size = graph_rows(max_rows)
        self._inputs = torch.empty(2 * size, dtype=torch.int64, device=table.device)
        self._capture = Capturing(table.device)
        self._graphs: dict[Hashable, _Graph] = {}

    def takes(self, host: HostRows) -> bool:
        """Whether nothing of what these requests ask for needs the host."""
        return self._sampler.graphable(host.slots.tolist())

    def run(self, host: HostRows) -> torch.Tensor:
        """Draft and put the drafts into the slot table: int64 [N], how many for each row."""
        count, most = len(host.slots), int(host.wanted.max())
        size = graph_rows(count)
        values = np.full(2 * size, self._table.padding, dtype=np.int64)
        values[:count] = host.slots
        values[size:] = 1
        values[size : size + count] = host.wanted
        self._table.staging.refill(self._inputs, values)
        longest = int(host.longest.max()) + most
        filters = self._sampler.filters(host.slots.tolist())
        key = size, most, filters, self._speculator.graph_key(size, longest)
        graph = self._graphs.get(key)
        if graph is None:
            captured = self._capture(lambda: self._work(size, most, longest, filters=filters))
            graph = self._graphs[key] = _Graph(*captured)
        graph.replay()
        return graph.counts[:count]

    def capture_largest(self, rows: int, most: int) -> None:
        """Capture the call that takes most memory."""
        size = graph_rows(rows)
        values = np.full(2 * size, self._table.padding, dtype=np.int64)
        values[size:] = 1
        self._table.staging.refill(self._inputs, values)
        longest = self._table.tokens.shape[1]
        captured = self._capture(lambda: self._work(size, most, longest, filters=True))
        self._graphs["largest"] = _Graph(*captured)

    def forget(self) -> None:
        """Drop every graph: the caches they were captured with are gone."""
        self._graphs.clear()
        self._capture.forget()

    def _work(self, size: int, most: int, longest: int, *, filters: bool) -> torch.Tensor:
        table = self._table
        slots, wanted = self._inputs[:size], self._inputs[size : 2 * size]
        lengths = table.lengths[slots]

        def draw(logits: torch.Tensor, rows: torch.Tensor | None, index: int) -> torch.Tensor:
            drawn = torch.empty_like(slots)
            self._sampler.draw_static(
                logits, slots, lengths + index, drawn, tokens=table.tokens, filters=filters
            )
            return drawn.clamp(-1, self._sampler.vocab_size - 1)

        host = HostRows(
            slots=np.zeros(size, dtype=np.int64),
            longest=np.full(size, longest, dtype=np.int64),
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
        drafts = self._speculator.propose(drafting).clamp(max=self._sampler.vocab_size - 1)
        counts = place_drafts(drafts, slots, lengths, table)
        return torch.minimum(counts, wanted)
