"""Steps with chunks of prompts as CUDA graphs, up to the hidden states.

Launching a step kernel by kernel takes the host as long as the device takes for a thousand tokens.
So steps of fewer are captured for few numbers of tokens, whatever rows these are in: which row a
token belongs to, and which rows have one query, is on the device.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..contracts.speculator import Observed
from ..step import Plan
from .batch import Draws, PlanRows
from .capture import Capturing
from .graphs import PATIENCE, End, Graph, graph_rows
from .slots import SlotTable
from .watch import Watch

__all__ = ("ChunkGraphs", "Chunked")

# Above, the device takes longer than the host.
_MOST_TOKENS = 1024
_FEWEST_TOKENS = 16


class Chunked(NamedTuple):
    """A launched step.

    Attributes:
        hidden: [T, hidden size], valid until the next step is launched.
        draws: its draws.
        last: int64 [M], the token before each draw, among the T; None where that is the identity.
        observed: what to show a speculator behind the draws.
    """

    hidden: torch.Tensor
    draws: Draws
    last: torch.Tensor | None
    observed: Observed | None


class ChunkGraphs:
    """Runs steps of rows with any number of tokens, without drafts.

    Args:
        watch: runs the model; it ``captures_chunks``.
        table: the slot table.
        max_tokens: of a step.
    """

    def __init__(
        self,
        watch: Watch,
        table: SlotTable,
        *,
        max_tokens: int,
    ) -> None:
        self._watch = watch
        self._table = table
        most = min(max_tokens, _MOST_TOKENS)
        sizes = {graph_rows(max(tokens, _FEWEST_TOKENS)) for tokens in range(1, most + 1)}
        self._sizes = sorted(sizes)
        self._most = most
        largest = self._sizes[-1]
        room = 5 * largest + 1 + max(sum(map(len, self._no_chunks(size))) for size in self._sizes)
        self._inputs = torch.zeros(room, dtype=torch.int64, device=table.device)
        self._graphs: dict[int, Graph] = {}
        self._missed: Counter[int] = Counter()
        self._capturing = Capturing(table.device)

    @property
    def num_shapes(self) -> int:
        """Graphs that there may be."""
        return len(self._sizes)

    def run(self, plan: Plan) -> Chunked | None:
        """Launch a step, or return None where it is to run without a graph."""
        total = sum(row.count for row in plan.rows)
        if total > self._most or any(row.drafts or row.slack for row in plan.rows):
            return None
        size = self._find(total)
        if size is None:
            return None
        rows = PlanRows(plan, self._table, exact=False)
        decodes = int((rows.counts == 1).sum())
        plans = self._watch.chunk_plans(rows.counts.tolist(), rows.ends.tolist(), decodes, size)
        if plans is None:
            return None
        self._fill(rows, plans, size)
        graph = self._graphs[size]
        graph.replay()
        slots = rows.slots[rows.drawing]
        parts = (slots, rows.ends[rows.drawing], rows.offsets[rows.drawing + 1] - 1)
        on_device, lengths, last = self._table.staging.send(parts)
        draws = Draws(rows.drawing.tolist(), slots.tolist(), on_device, lengths)
        if graph.end is None:
            raise RuntimeError("a step with chunks ends with hidden states")
        return Chunked(graph.end.hidden[:total], draws, last, graph.end.observed)

    def capture_ahead(self) -> bool:
        """Capture one more size; False when all are there."""
        for size in self._sizes:
            if size not in self._graphs:
                self._capture(size)
                return True
        return False

    def capture_largest(self) -> None:
        """Capture the step that takes most memory."""
        self._capture(self._sizes[-1])

    def forget(self) -> None:
        """Drop every graph: the cache they were captured with is gone."""
        self._graphs.clear()
        self._missed.clear()
        self._capturing.forget()

    def _find(self, total: int) -> int | None:
        """The size of the graph that runs so many tokens without taking much longer."""
        size = graph_rows(max(total, _FEWEST_TOKENS))
        if size in self._graphs:
            return size
        self._missed[size] += 1
        if self._missed[size] > PATIENCE:
            self._capture(size)
            return size
        fits = (at for at in self._sizes if size <= at <= size * 5 // 4 and at in self._graphs)
        return next(fits, None)

    def _capture(self, size: int) -> None:
        nothing = PlanRows(Plan(0, [], []), self._table, exact=False)
        self._fill(nothing, self._no_chunks(size), size)
        self._graphs[size] = Graph(*self._capturing(lambda: self._step(size)))

    def _no_chunks(self, size: int) -> list[np.ndarray]:
        plans = self._watch.chunk_plans([], [], 0, size)
        if plans is None:
            raise RuntimeError("an attention backend has the feature chunk_graphs and no plan")
        return plans

    def _fill(self, rows: PlanRows, plans: list[np.ndarray], size: int) -> None:
        """What is beyond the rows is padding: tokens of nobody, and rows without any."""
        row_of, positions = rows.tokens()
        count, total = len(rows.slots), len(positions)
        chunks = np.concatenate(plans)
        values = np.zeros(5 * size + 1 + len(chunks), dtype=np.int64)
        token_slots, at, slots, starts, ends = np.split(
            values[: 5 * size + 1], (size, 2 * size, 3 * size, 4 * size + 1)
        )
        token_slots[:] = slots[:] = self._table.padding
        token_slots[:total] = rows.slots[row_of]
        at[:total] = positions
        slots[:count] = rows.slots
        starts[: count + 1] = rows.offsets
        starts[count + 1 :] = total
        ends[:count] = rows.ends
        values[5 * size + 1 :] = chunks
        self._table.staging.refill(self._inputs, values)

    def _step(self, size: int) -> End:
        """What a graph holds: from the inputs to hidden states."""
        table = self._table
        sizes = (size, size, size, size + 1, size, *map(len, self._no_chunks(size)))
        inputs = self._inputs[: sum(sizes)].split_with_sizes(sizes)
        token_slots, positions, slots, starts, ends, chunks, *shown = inputs
        blocks = table.blocks[token_slots, positions // table.block_size].long()
        batch = AttentionBatch(
            query_start=starts.to(torch.int32),
            lengths=ends.to(torch.int32),
            block_tables=table.blocks[slots],
            write_slots=blocks * table.block_size + positions % table.block_size,
            num_decodes=size,
            query_lengths=[1] * size,
            host_lengths=[table.max_model_len] * size,
            chunk_plan=chunks.to(torch.int32),
        )
        token_ids = table.tokens[token_slots, positions].long()
        shown_plan = shown[0].to(torch.int32) if shown else None
        return End(*self._watch.forward(token_ids, token_slots, positions, batch, shown_plan))
