"""Steps with chunks of prompts as CUDA graphs, up to the hidden states.

Launching a step kernel by kernel takes the host as long as the device takes for a thousand tokens.
So steps of fewer are captured for few numbers of tokens, whatever rows these are in: which row a
token belongs to, and which rows have one query, is on the device. Showing a speculator such a step
comes behind its draws, and is a graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..contracts.speculator import Observed
from ..step import Plan
from .batch import Draws, PlanRows
from .capture import CapturedShapes
from .graph_sizes import graph_rows
from .graphs import PATIENCE, End, Graph, shows
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
        show: shows a speculator the step, behind the draws; None where it does not see it.
    """

    hidden: torch.Tensor
    draws: Draws
    last: torch.Tensor | None
    show: Callable[[], None] | None


class _Shape(NamedTuple):
    """What a step is captured for: tokens, and whether who watches steps is shown it."""

    tokens: int
    shown: bool = True


class ChunkGraphs(CapturedShapes[_Shape, Graph]):
    """Runs steps of rows with any number of tokens, without drafts.

    Attributes:
        most_tokens: of a step that may run as a graph.

    Args:
        watch: runs the model; it ``captures_chunks``.
        table: the slot table.
        observe: shown what steps compute, if somebody asks to see it.
        max_tokens: of a step.
    """

    def __init__(
        self,
        watch: Watch,
        table: SlotTable,
        observe: Callable[[Observed], None] | None,
        *,
        max_tokens: int,
    ) -> None:
        super().__init__(table.device)
        self._watch = watch
        self._table = table
        self._observe = observe
        most = self.most_tokens = min(max_tokens, _MOST_TOKENS)
        sizes = {graph_rows(max(tokens, _FEWEST_TOKENS)) for tokens in range(1, most + 1)}
        self._sizes = sorted(sizes)
        self._shapes = [_Shape(size) for size in self._sizes]
        largest = self._sizes[-1]
        chunks = (self._no_chunks(shape) for shape in self._shapes)
        room = 5 * largest + 1 + max(sum(map(len, plans)) for plans in chunks)
        if watch.watches:
            self._shapes += [shape._replace(shown=False) for shape in self._shapes]
        self._inputs = torch.zeros(room, dtype=torch.int64, device=table.device)

    def run(self, plan: Plan) -> Chunked | None:
        """Launch a step, or return None where it is to run without a graph."""
        total = sum(row.count for row in plan.rows)
        if total > self.most_tokens or any(row.drafts or row.slack for row in plan.rows):
            return None
        shape, graph = self._find(_Shape(graph_rows(max(total, _FEWEST_TOKENS)), plan.shown))
        if graph is None:
            return None
        rows = PlanRows(plan, self._table, exact=False)
        decodes = int((rows.counts == 1).sum())
        counts, ends, size = rows.counts.tolist(), rows.ends.tolist(), shape.tokens
        plans = self._watch.chunk_plans(counts, ends, decodes, size, shown=shape.shown)
        if plans is None:
            return None
        self._fill(rows, plans, size)
        graph.replay()
        if graph.end is None:
            raise RuntimeError("a step with chunks ends with hidden states")
        show = graph.end.show if plan.shown else None
        return Chunked(graph.end.hidden[:total], *self._draws(rows), show)

    def _draws(self, rows: PlanRows) -> tuple[Draws, torch.Tensor | None]:
        """The draws, and the token before each."""
        slots = rows.slots[rows.drawing]
        if not len(slots):
            nothing = self._inputs[:0]
            return Draws([], [], nothing, nothing), None
        parts = (slots, rows.ends[rows.drawing], rows.offsets[rows.drawing + 1] - 1)
        on_device, lengths, last = self._table.staging.send(parts)
        return Draws(rows.drawing.tolist(), slots.tolist(), on_device, lengths), last

    def capture_largest(self) -> None:
        self._graph(_Shape(self._sizes[-1]))

    def _patience(self, shape: _Shape) -> int:
        return PATIENCE

    def _stand_in(self, shape: _Shape) -> None:
        return None

    def _shapes_for_one(self) -> Iterator[_Shape]:
        return iter(())

    def _shapes_to_come(self) -> Iterator[_Shape]:
        yield from self._shapes

    def _shapes_that_hold(self, shape: _Shape) -> Iterator[_Shape]:
        most = shape.tokens * 5 // 4
        # What is shown needlessly is harmless.
        for shown in sorted({shape.shown, True}):
            for size in self._sizes:
                if shape.tokens <= size <= most:
                    yield _Shape(size, shown)

    def _key(self, shape: _Shape) -> _Shape:
        return shape

    def _capture(self, shape: _Shape) -> Graph:
        nothing = PlanRows(Plan(0, [], []), self._table, exact=False)
        self._fill(nothing, self._no_chunks(shape), shape.tokens)
        replay, (hidden, observed) = self._capturing(lambda: self._step(shape))
        show = shows(self._observe, observed)
        if show is not None:
            # What it is shown must be there: it runs once before it is captured.
            replay()
            show, _ = self._capturing(show)
        return Graph(replay, End(hidden, show), observed)

    def _no_chunks(self, shape: _Shape) -> list[np.ndarray]:
        plans = self._watch.chunk_plans([], [], 0, shape.tokens, shown=shape.shown)
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

    def _step(self, shape: _Shape) -> tuple[torch.Tensor, Observed | None]:
        """What a graph holds: from the inputs to hidden states."""
        table, size = self._table, shape.tokens
        sizes = (size, size, size, size + 1, size, *map(len, self._no_chunks(shape)))
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
        where = token_slots, positions
        return self._watch.forward(token_ids, *where, batch, shown_plan, shown=shape.shown)
