"""Decode steps as CUDA graphs, captured ahead of need while nothing runs.

A step of single queries has a shape that depends on its number of rows and on how the attention
backend divides its longest row. Rows are rounded up to few sizes, the rest being padding that
reads and writes the null block, so that few graphs serve every step. A capture takes as long as
many steps, so one whose graph is missing runs in a larger one, or without, unless it keeps coming.
Drafts are single queries, too: a sequence with k of them is k + 1 rows, which see each other's
tokens. As their number changes from step to step, a graph of as many rows as take little longer is
captured at once for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..contracts.model import Architecture
from ..contracts.speculator import Observed
from ..step import Plan
from .batch import Draws
from .capture import LONG_PATIENCE, CapturedShapes
from .decode_inputs import NOBODY, DecodeInputs, Tokens
from .graph_sizes import (
    graph_length,
    graph_lengths,
    graph_rows,
    graph_sizes,
    holding_sizes,
    stand_in_rows,
)
from .sample import Sampler
from .slots import SlotTable
from .staging import Numbers
from .verify import verify
from .watch import Watch

__all__ = (
    "PATIENCE",
    "DecodeGraphs",
    "Decoded",
    "End",
    "Graph",
    "shows",
)

# Rows at which a platform's products may change their kernels.
_PRODUCT_ROWS = (1, 16, 32, 64)
# Steps of one shape, without drafts, that run in another's graph or without before it is captured
# while somebody waits.
PATIENCE = 4
Ending = Literal["drawn", "filtered", "hidden"]


class _Shape(NamedTuple):
    """What a step is captured for: rows, the longest one's tokens, its end, a hint to attention,
    whether there are drafts among the rows, and whether who watches steps is shown it."""

    rows: int
    longest: int = 1
    ending: Ending = "drawn"
    shares: bool = False
    verifies: bool = False
    shown: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether the step leaves the inputs of the next one. Where hidden states are its end,
        somebody has yet to look at its own."""
        return not self.verifies and self.ending != "hidden"


class _Firsts(NamedTuple):
    """The first rows of what every step fills: taking them out takes longer than a small kernel."""

    slots: torch.Tensor
    lengths: torch.Tensor
    drawn: torch.Tensor


class End(NamedTuple):
    """What a step leaves to do where it ends with hidden states: see ``Decoded``."""

    hidden: torch.Tensor
    show: Callable[[], None] | None = None


class Graph(NamedTuple):
    """A captured step.

    Attributes:
        replay: launches it.
        end: what it leaves to do; None for nothing.
        observed: what another graph shows, held so that no other has the memory.
    """

    replay: Callable[[], None]
    end: End | None
    observed: Observed | None = None


class Decoded(NamedTuple):
    """A launched step.

    Attributes:
        draws: its rows.
        drawn: M tokens; undefined where there are hidden states.
        hidden: [M, hidden size] to draw from, or None where that was done.
        show: shows a speculator the step, behind those draws; None where it does not see it.
    """

    draws: Draws
    drawn: Numbers
    hidden: torch.Tensor | None = None
    show: Callable[[], None] | None = None


def shows(
    observe: Callable[[Observed], None] | None, observed: Observed | None
) -> Callable[[], None] | None:
    """What shows somebody a step, if there is something to be seen."""
    return None if observe is None or observed is None else partial(observe, observed)


class DecodeGraphs(CapturedShapes[_Shape, Graph]):
    """Runs steps in which every row computes a token, with drafts behind it, and draws after each.

    A graph ends with the drawn tokens in the slot table, or, where a request asks for more than the
    sampler's kernels do, with hidden states.

    Args:
        model: with its weights.
        watch: runs the model, over backends with the feature ``graphs``.
        table: the slot table.
        sampler: draws.
        observe: shown what steps compute, if somebody asks to see it.
        max_rows: rows of the largest step.
        max_drafts: of a row.
    """

    def __init__(
        self,
        model: Architecture,
        watch: Watch,
        table: SlotTable,
        sampler: Sampler,
        observe: Callable[[Observed], None] | None,
        *,
        max_rows: int,
        max_drafts: int = 0,
    ) -> None:
        super().__init__(table.device)
        self._model = model
        self._watch = watch
        self._table = table
        self._sampler = sampler
        self._observe = observe
        self._sizes = graph_sizes(max_rows)
        self._max_rows = self._sizes[-1]
        self._max_drafts = max_drafts
        device = table.device
        self._inputs = DecodeInputs(table, self._max_rows)
        rows = self._max_rows
        self._located = table.places(rows)
        self._mailbox = table.mailbox(rows)
        self._query_start = torch.arange(rows + 1, dtype=torch.int32, device=device)
        # Of padding, and where kernels are only compiled, nothing is drawn: zeros are tokens.
        self._drawn = torch.zeros(rows, dtype=torch.int64, device=device)
        self._kept: dict[int, _Firsts] = {}

    def takes(self, plan: Plan) -> bool:
        """Whether a plan is of this kind."""
        if plan.plain:
            return True
        return all(row.count == 1 + row.drafts and row.samples for row in plan.rows)

    def run(self, plan: Plan) -> Decoded:
        """Launch a step; what it gives is valid until the next one is launched."""
        grown = self._table.grown(plan.rows) if plan.grows else NOBODY
        if not plan.plain and any(row.drafts or row.slack for row in plan.rows):
            return self._run_verifying(plan, grown)
        slots = np.array([row.slot for row in plan.rows])
        starts = np.array([row.start for row in plan.rows])
        order, shares = self._table.by_prefix(slots)
        slots, starts = slots[order], starts[order]
        host_slots, count = slots.tolist(), len(slots)
        ending, longest = self._ending(host_slots), self._length(int(starts.max()) + 1)
        shape = _Shape(graph_rows(count), longest, ending, shares, shown=plan.shown)
        _, end = self._launch(shape, Tokens(slots, starts), grown)
        firsts = self._firsts(count)
        draws = Draws(order.tolist(), host_slots, firsts.slots, firsts.lengths)
        return self._decoded(draws, firsts.drawn, end)

    def _run_verifying(self, plan: Plan, grown: np.ndarray) -> Decoded:
        layout = self._inputs.arrange(plan)
        count = len(layout.rows)
        ending = self._ending(layout.host_slots)
        longest = self._length(max([row.start + row.count for row in plan.rows]))
        shape = _Shape(
            graph_rows(count), longest, ending, shares=True, verifies=True, shown=plan.shown
        )
        size, end = self._launch(shape, layout.tokens(plan), grown)
        firsts = self._firsts(count)
        on_device = firsts.slots, firsts.lengths
        draws = Draws(layout.rows, layout.host_slots, *on_device, verifies=True)
        if end is not None:
            draws.codes = self._inputs.part(2, size)[:count]
        return self._decoded(draws, firsts.drawn, end)

    def _decoded(self, draws: Draws, drawn: torch.Tensor, end: End | None) -> Decoded:
        if end is None and self._mailbox is not None:
            return Decoded(draws, self._mailbox.posted(len(draws.rows)))
        if end is None:
            return Decoded(draws, drawn)
        return Decoded(draws, drawn, end.hidden[: len(draws.rows)], end.show)

    def _launch(self, shape: _Shape, tokens: Tokens, grown: np.ndarray) -> tuple[int, End | None]:
        """Run a step; the rows it was padded to, and what it leaves to do."""
        held, graph = self._find(shape)
        self._inputs.put(tokens, held.rows, grown)
        try:
            if graph is None:
                end = self._step(held)
            else:
                graph.replay()
                end = graph.end
        except Exception:
            # It may have taken its letter in, or posted one.
            self._recount()
            raise
        if held.goes_on:
            tokens = tokens.next
        self._inputs.keep(tokens, held.rows)
        if end is not None and not shape.shown:
            end = End(end.hidden)
        return held.rows, end

    def _length(self, longest: int) -> int:
        return graph_length(longest, self._table.max_model_len)

    def _patience(self, shape: _Shape) -> int:
        return LONG_PATIENCE if shape.verifies else PATIENCE

    def _stand_in(self, shape: _Shape) -> _Shape | None:
        if not shape.verifies:
            return None
        return shape._replace(rows=stand_in_rows(self._sizes, shape.rows))

    def _shapes_that_hold(self, shape: _Shape) -> Iterator[_Shape]:
        # Of shared prefixes a step need not make use, and what is shown needlessly is harmless.
        hints = sorted({shape.shares, shape.verifies}, reverse=True)
        lengths = (shape.longest, self._table.max_model_len)
        for longest, shown, shares in itertools.product(
            lengths, sorted({shape.shown, True}), hints
        ):
            for rows in holding_sizes(self._sizes, shape.rows):
                yield shape._replace(rows=rows, longest=longest, shares=shares, shown=shown)

    def _ending(self, slots: list[int]) -> Ending:
        if not self._sampler.graphable(slots):
            return "hidden"
        return "filtered" if self._sampler.filters(slots) else "drawn"

    def _firsts(self, count: int) -> _Firsts:
        found = self._kept.get(count)
        if found is None:
            parts = self._inputs.part(0, count), self._located.lengths[:count], self._drawn[:count]
            found = self._kept[count] = _Firsts(*parts)
        return found

    def run_sizes(self) -> None:
        """Run, without a graph, steps in which every kernel of such steps occurs."""
        most = self._max_rows
        shapes = [_Shape(size) for size in sorted({*_PRODUCT_ROWS, most}) if size <= most]
        # Attention has kernels of its own for what rows have in common, for few rows and for many.
        lengths, kinds = (1, self._table.max_model_len), sorted({False, self._max_drafts > 0})
        for rows, longest, verifies in itertools.product({min(2, most), most}, lengths, kinds):
            shapes.append(_Shape(rows, longest, "filtered", shares=True, verifies=verifies))
        for shape in shapes:
            self._inputs.pad(shape.rows, verifies=shape.verifies)
            self._step(shape)
            self._recount()

    def capture_largest(self) -> None:
        self._graph(_Shape(self._max_rows, ending="filtered", verifies=self._max_drafts > 0))

    def _shapes_for_one(self) -> Iterator[_Shape]:
        most = self._max_drafts
        numbers = {stand_in_rows(self._sizes, graph_rows(1 + k)) for k in range(1, most + 1)}
        for rows, ending in itertools.product(sorted(numbers), get_args(Ending)):
            longest = self._table.max_model_len
            yield _Shape(rows, longest, ending, shares=True, verifies=True)

    def _shapes_to_come(self) -> Iterator[_Shape]:
        """Of steps of any number of rows and any length, the commonest first."""
        lengths = graph_lengths(self._table.max_model_len)
        endings: tuple[Ending, ...] = ("drawn", "filtered")
        kinds = sorted({False, self._max_drafts > 0})
        for ending, longest, verifies in itertools.product(endings, lengths, kinds):
            for rows in self._sizes:
                yield _Shape(rows, longest, ending, shares=verifies, verifies=verifies)
        if self._watch.watches:
            # Where nobody has drafted for long, none are verified.
            for ending, longest in itertools.product(endings, lengths):
                for rows in self._sizes:
                    yield _Shape(rows, longest, ending, shown=False)

    def _key(self, shape: _Shape) -> Hashable:
        key = self._watch.graph_key(
            shape.rows, shape.longest, shares_prefixes=shape.shares, shown=shape.shown
        )
        return shape.rows, shape.ending, shape.verifies, key

    def _capture(self, shape: _Shape) -> Graph:
        self._inputs.pad(shape.rows, verifies=shape.verifies)
        try:
            return Graph(*self._capturing(lambda: self._step(shape)))
        finally:
            self._recount()

    def _recount(self) -> None:
        self._inputs.recount()
        if self._mailbox is not None:
            self._mailbox.recount()

    def _step(self, shape: _Shape) -> End | None:
        """What a graph holds: from slots and positions to drawn tokens, or to hidden states."""
        table, size = self._table, shape.rows
        slots, starts, codes = (self._inputs.part(index, size) for index in range(3))
        at = self._located.first(size)
        self._inputs.receive()
        table.locate(slots, starts, codes if shape.verifies else None, at, advances=shape.goes_on)
        batch = AttentionBatch(
            query_start=self._query_start[: size + 1],
            lengths=at.counts,
            block_tables=at.block_tables,
            write_slots=at.write_slots,
            num_decodes=size,
            query_lengths=[1] * size,
            host_lengths=[shape.longest] * size,
            shares_prefixes=shape.shares,
            siblings=shape.verifies,
        )
        hidden, observed = self._watch.forward(
            at.token_ids, slots, at.positions, batch, shown=shape.shown
        )
        if shape.ending == "hidden":
            return End(hidden, shows(self._observe, observed))
        drawn = self._drawn[:size]
        self._sampler.draw_static(
            self._model.logits(hidden),
            slots,
            at.lengths,
            drawn,
            tokens=None if shape.verifies else table.tokens,
            filters=shape.ending == "filtered",
        )
        if shape.verifies:
            verify(drawn, slots, at.lengths, codes, table)
        if self._mailbox is not None:
            self._mailbox.post(drawn)
        if observed is not None and self._observe is not None:
            if not shape.verifies:
                table.note(slots, at.lengths)
            self._observe(observed)
        return None
