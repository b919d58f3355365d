"""The speculator's part of a step, and what keeps its faults from everybody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ..contracts.speculator import Drafting, HostRows, Observed, Speculator
from ..step import Newcomer, Plan, Row
from .backlog import Backlog
from .draft_graphs import DraftGraphs
from .reading import Reading
from .sample import Sampler
from .slots import SlotTable
from .staging import Numbers
from .verify import place_drafts

__all__ = ("Drafter", "Proposals")

logger = logging.getLogger(__name__)


class Proposals(NamedTuple):
    """Drafts that stand ready: rows of the plan, and N numbers, how many for each."""

    rows: list[int]
    counts: Numbers


class Drafter:
    """Asks a speculator for drafts and puts them into the slot table.

    A speculator that raises is not asked again: the engine goes on without drafts.

    Args:
        speculator: asked.
        table: the slot table.
        sampler: draws for speculators, and knows what drafts are below.
        graphs: capture the proposals that can be; None for none.
        backlog: what the speculator need not see yet; None to show it every step at once.
        reading: of the speculator's reader; None where it has none.
    """

    def __init__(
        self,
        speculator: Speculator,
        table: SlotTable,
        sampler: Sampler,
        graphs: DraftGraphs | None,
        backlog: Backlog | None,
        reading: Reading | None,
    ) -> None:
        self.speculator = speculator
        self.graphs = graphs
        self.reading = reading
        self._backlog = backlog
        self._table = table
        self._sampler = sampler
        self._broken = False

    def rehearse(self, most: int) -> None:
        """Draft for one row of nobody's, if the speculator asks for it, so that kernels that are
        compiled when they are first called have been."""
        if "rehearsed" not in self.speculator.capabilities.features:
            return
        # On the host, slots are somebody's always, as in a captured call.
        host = _host_rows([Row(0, 0, 0, [], True, propose=most)])
        padding = np.array([self._table.padding])
        slots, wanted = self._table.staging.send((padding, host.wanted))
        drafting = replace(self._drafting(host, slots, wanted), draw=_likeliest)
        try:
            self.speculator.propose(drafting)
        except Exception:
            self._drop()

    def enter(self, newcomers: list[Newcomer]) -> None:
        """Sequences take slots over, whose tokens are still those of others."""
        self._catch_up()
        for newcomer in newcomers:
            self.speculator.enter(newcomer.slot, len(newcomer.token_ids))

    def observe(self, observed: Observed) -> None:
        """Show the speculator a step, once the table's tokens and lengths are those after it."""
        if self._backlog is None:
            self._show(observed)
            return
        if not self._backlog.has_room(observed):
            self._catch_up()
        self._backlog.add(observed)

    def _catch_up(self) -> None:
        observed = None if self._backlog is None else self._backlog.take()
        if observed is not None:
            self._show(observed)

    def _show(self, observed: Observed) -> None:
        if self._broken:
            return
        try:
            self.speculator.observe(observed)
        except Exception:
            self._drop()

    def propose(self, plan: Plan) -> Proposals | None:
        """Draft for the rows that ask for it, once the table's tokens and lengths are those after
        this step; None where no row asks."""
        asking = [index for index, row in enumerate(plan.rows) if row.propose]
        if not asking:
            return None
        self._catch_up()
        rows = [plan.rows[index] for index in asking]
        counts = None if self._broken else self._counts(rows)
        if counts is None:
            counts = torch.zeros(len(asking), dtype=torch.int64, device=self._table.device)
        return Proposals(asking, counts)

    def _counts(self, rows: list[Row]) -> Numbers | None:
        """N numbers, drafts that stand ready now; None where the speculator fails."""
        try:
            loaded = None if self.graphs is None else self.graphs.load(rows)
            if loaded is not None:
                if self.reading is not None:
                    host = _host_rows(rows)
                    self._read(host, lambda: self._sent(host))
                return loaded.launch()
            host = _host_rows(rows)
            drafting = self._sent(host)
            self._read(host, lambda: drafting)
            drafts = self.speculator.propose(drafting)
            expected = (len(drafting.slots), drafting.most)
            if tuple(drafts.shape) != expected or drafts.dtype != torch.int64:
                found = f"{drafts.dtype} {list(drafts.shape)}"
                raise TypeError(f"drafts must be int64 {list(expected)}, not {found}")
        except Exception:
            self._drop()
            return None
        where = drafting.wanted, drafting.slots, drafting.lengths
        return place_drafts(drafts, *where, self._table, self._sampler.vocab_size)

    def _read(self, host: HostRows, drafting: Callable[[], Drafting]) -> None:
        """Let the speculator's model compute what it lacks of rows, put on the device if need
        be: that takes longer than launching a captured call."""
        if self.reading is not None:
            self.reading.catch_up(host, self.speculator.lacks(host), drafting)

    def _drop(self) -> None:
        name = type(self.speculator).__name__
        logger.exception("the speculator %s failed and is not asked again", name)
        self._broken = True

    def _sent(self, host: HostRows) -> Drafting:
        return self._drafting(host, *self._table.staging.send((host.slots, host.wanted)))

    def _drafting(self, host: HostRows, slots: torch.Tensor, wanted: torch.Tensor) -> Drafting:
        table = self._table
        lengths = table.lengths[slots]

        def draw(logits: torch.Tensor, rows: torch.Tensor | None, index: int) -> torch.Tensor:
            where = slots, host.slots.tolist(), lengths + index
            if rows is not None:
                on_host = host.slots[host.wanted > index].tolist()
                where = slots[rows], on_host, lengths[rows] + index
            return self._draw(logits, *where)

        return Drafting(
            slots=slots,
            lengths=lengths,
            wanted=wanted,
            most=int(host.wanted.max()),
            tokens=table.tokens,
            blocks=table.blocks,
            draw=draw,
            host=host,
        )

    def _draw(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        host_slots: list[int],
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        table = self._table
        drawn = self._sampler.draw(logits, slots, host_slots, lengths, table.tokens)
        # Where penalties on the next draft look for it.
        table.write(slots, lengths, drawn)
        return drawn.clamp(-1, self._sampler.vocab_size - 1)


def _likeliest(logits: torch.Tensor, rows: torch.Tensor | None, index: int) -> torch.Tensor:
    return logits.argmax(-1)


def _host_rows(rows: list[Row]) -> HostRows:
    columns = [
        (row.slot, row.start + row.count, row.slack, row.propose, row.drafts) for row in rows
    ]
    slots, ends, slack, wanted, drafts = np.array(columns, dtype=np.int64).T
    return HostRows(
        slots=slots, longest=ends + 1, slack=slack + drafts, wanted=wanted, verified=drafts
    )
