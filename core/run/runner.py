"""The runner: everything that happens on the device in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..contracts.attention import AttentionBackend
from ..contracts.model import Architecture
from ..contracts.speculator import Speculator
from ..step import Newcomer, Outcome, Plan
from .backlog import Backlog
from .batch import Draws, make_batch
from .capture import CapturedShapes
from .chunk_graphs import Chunked, ChunkGraphs
from .draft_graphs import DraftGraphs
from .drafter import Drafter, Proposals
from .graphs import DecodeGraphs, shows
from .reading import make_reading
from .sample import BROKEN, EXHAUSTED, PendingLogprobs, Sampler, prompt_logprobs
from .sample_table import Draw
from .slot_kernels import SlotKernels
from .slots import SlotTable
from .staging import Fetched, Numbers
from .verify import verify
from .watch import Watch

__all__ = ("Captured", "Limits", "PendingStep", "Runner")

# Rows of prompt logits computed at once: bounds their memory at 256 x vocabulary x 4 bytes.
_PROMPT_ROWS = 256
Captured = CapturedShapes[Any, Any]
_BROKEN = "the model's output for this request is not a number"


class PendingStep:
    """A launched step; ``wait`` copies its tokens to the host.

    Args:
        plan: of the step.
        rows: of the plan, of each draw.
        drawn: the draws, and behind them how many drafts stand ready for each row that asked.
        proposing: those rows of the plan.
        logprobs: draws that ask for log-probabilities, and theirs.
        prompts: log-probabilities of prompts by row.
        take_cold: whether anything was cold since this was last called; see ``Outcome``.
    """

    def __init__(
        self,
        plan: Plan,
        rows: list[int],
        drawn: Fetched,
        proposing: list[int],
        logprobs: tuple[list[int], PendingLogprobs] | None,
        prompts: dict[int, list[PendingLogprobs]],
        take_cold: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._rows = rows
        self._drawn = drawn
        self._proposing = proposing
        self._logprobs = logprobs
        self._prompts = prompts
        self._take_cold = take_cold

    def wait(self) -> Outcome:
        """The step's tokens, once the device has drawn them."""
        drawn, rows = self._drawn.read(), self._rows
        tokens: list[list[int]] = [[] for _ in self._plan.rows]
        outcome = Outcome(self._plan.step, tokens, cold=self._take_cold())
        if self._plan.plain and min(drawn) >= 0 and self._logprobs is None:
            for index, token in zip(rows, drawn, strict=True):
                tokens[index].append(token)
            return outcome
        outcome.proposed = dict(zip(self._proposing, drawn[len(rows) :], strict=True))
        for index, token in zip(rows, drawn[: len(rows)], strict=True):
            if token >= 0:
                tokens[index].append(token)
            elif token == BROKEN:
                outcome.failures[index] = _BROKEN
            elif token == EXHAUSTED:
                outcome.exhausted.append(index)
        if self._logprobs is not None:
            asking, pending = self._logprobs
            for row, entry in zip(asking, pending.read(), strict=True):
                if entry is not None:
                    outcome.logprobs.setdefault(rows[row], []).append(entry)
        for index, parts in self._prompts.items():
            entries = [entry for part in parts for entry in part.read()]
            outcome.prompt_logprobs[index] = [entry for entry in entries if entry is not None]
        return outcome


class Limits(NamedTuple):
    """What a plan may hold.

    Attributes:
        max_slots: sequences that run at once.
        max_model_len: tokens of one sequence.
        vocab_size: rows of the model's head.
        max_tokens: of a step.
        max_draws: tokens drawn in a step.
        max_drafts: of one row.
    """

    max_slots: int
    max_model_len: int
    vocab_size: int
    max_tokens: int
    max_draws: int
    max_drafts: int


class Runner:
    """Owns the model, its cache and the slot table on one device.

    Args:
        model: with its weights.
        attention: backend whose cache is allocated.
        limits: what a plan may hold.
        device: where all of it lives.
        graphs: run decode steps as CUDA graphs, and small ones with chunks if attention can.
        draw: kernels that draw tokens; torch's operators where None.
        slot_kernels: for what surrounds the model; torch's operators where None.
        speculator: proposes drafts.
    """

    def __init__(
        self,
        model: Architecture,
        attention: AttentionBackend,
        limits: Limits,
        *,
        device: torch.device,
        graphs: bool,
        draw: Draw | None = None,
        slot_kernels: SlotKernels | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        self.model = model
        self.attention = attention
        self.limits = limits
        self.slots = SlotTable(
            max_slots=limits.max_slots,
            max_model_len=limits.max_model_len,
            block_size=attention.block_size,
            device=device,
            max_drafts=limits.max_drafts,
            kernels=slot_kernels,
        )
        self._caches = [attention, *(speculator.caches() if speculator is not None else ())]
        self._watch = Watch(model, attention, self.slots, speculator)
        self.sampler = Sampler(
            max_slots=limits.max_slots,
            vocab_size=limits.vocab_size,
            device=device,
            kernels=draw,
        )
        self.drafter: Drafter | None = None
        if speculator is not None:
            captures = graphs and "graphs" in speculator.capabilities.features
            drafts = (
                DraftGraphs(
                    speculator,
                    self.slots,
                    self.sampler,
                    max_rows=limits.max_slots,
                    max_drafts=limits.max_drafts,
                )
                if captures
                else None
            )
            # What a captured step shows is overwritten by the next.
            keeps = device.type == "cpu" and not graphs
            backlog = Backlog(self.slots, limits.max_tokens) if keeps else None
            reading = make_reading(speculator, self.slots, limits.max_tokens, captures=captures)
            self.drafter = Drafter(speculator, self.slots, self.sampler, drafts, backlog, reading)
        self._observe = None if self.drafter is None else self.drafter.observe
        self.graphs: DecodeGraphs | None = None
        if graphs:
            self.graphs = DecodeGraphs(
                model,
                self._watch,
                self.slots,
                self.sampler,
                self._observe,
                max_rows=limits.max_draws,
                max_drafts=limits.max_drafts,
            )
        self.chunk_graphs: ChunkGraphs | None = None
        if graphs and self._watch.captures_chunks:
            self.chunk_graphs = ChunkGraphs(
                self._watch, self.slots, self._observe, max_tokens=limits.max_tokens
            )
        self._captured = self.captured()
        # Slot -> (number of prompt tokens, alternatives asked for), for prompt log-probabilities.
        self._scored: dict[int, tuple[int, int]] = {}

    def allocate(self, num_blocks: int) -> None:
        """Make the cache, and those that share its blocks; what was captured before is void."""
        for backend in self._caches:
            backend.allocate(num_blocks)

    def bytes_per_block(self) -> int:
        """Bytes that one block takes in all caches."""
        return sum(backend.bytes_per_block() for backend in self._caches)

    @torch.inference_mode()
    def execute(self, plan: Plan) -> PendingStep:
        """Launch one step; the outcome comes from the handle."""
        self._enter(plan.newcomers)
        if self.graphs is not None and self.graphs.takes(plan):
            draws, drawn, hidden, show = self.graphs.run(plan)
            if hidden is None:
                return self._pending(plan, draws, drawn)
            return self._draw(plan, self.model.logits(hidden), draws, {}, show)
        if plan.grows:
            self.slots.append(self.slots.grown(plan.rows))
        hidden, draws, last, show = self._chunks(plan)
        prompts = self._score_prompts(plan, hidden) if self._scored else {}
        if not draws.rows:
            if show is not None:
                show()
            nothing = self.slots.staging.fetch(hidden.new_empty(0, dtype=torch.int64))
            return PendingStep(plan, [], nothing, [], None, prompts, self._take_cold)
        chosen = hidden if last is None else hidden[last]
        return self._draw(plan, self.model.logits(chosen), draws, prompts, show)

    def _chunks(self, plan: Plan) -> Chunked:
        """Launch a step with chunks."""
        if self.chunk_graphs is not None:
            chunked = self.chunk_graphs.run(plan)
            if chunked is not None:
                return chunked
        chooses = self._watch.chooses(shown=plan.shown) and not self._scores(plan)
        batch = make_batch(plan, self.slots, exact=self._watch.exact, chooses=chooses)
        hidden, observed = self._watch.forward(
            batch.token_ids,
            batch.slots,
            batch.positions,
            batch.attention,
            ending=batch.ending,
            shown=plan.shown,
        )
        show = shows(self._observe, observed)
        return Chunked(hidden, batch.draws, batch.last_tokens, show)

    @torch.inference_mode()
    def idle(self) -> bool:
        """Prepare for steps to come while there is nothing to do; whether more is left."""
        return any(graphs.capture_ahead() for graphs in self.captured())

    @torch.inference_mode()
    def decode_sizes(self) -> None:
        """Run one decode step of each size whose kernels may differ, on padding alone."""
        if self.graphs is not None:
            self.graphs.run_sizes()

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Draft for nobody, so that whatever is compiled or captured for one sequence's drafts is.

        After ``allocate``, as what is captured reads the cache.
        """
        if self.drafter is not None and self.graphs is None:
            self.drafter.rehearse(self.limits.max_drafts)
        for graphs in self.captured():
            graphs.capture_for_one()

    @torch.inference_mode()
    def measure_graphs(self) -> None:
        """Capture the largest step of each kind, as long as the measured cache is in place."""
        for graphs in self.captured():
            graphs.capture_largest()

    def forget_graphs(self) -> None:
        """Drop what was captured with a cache that is about to be replaced."""
        for graphs in self.captured():
            graphs.forget()

    def captured(self) -> list[Captured]:
        """What runs as graphs, kind by kind."""
        kinds: list[Captured | None] = [self.graphs, self.chunk_graphs]
        if self.drafter is not None:
            kinds.append(self.drafter.graphs)
            if self.drafter.reading is not None:
                kinds.append(self.drafter.reading.graphs)
        return [graphs for graphs in kinds if graphs is not None]

    def _take_cold(self) -> bool:
        found = False
        for graphs in self._captured:
            found |= graphs.cold
            graphs.cold = False
        return found

    def _enter(self, newcomers: list[Newcomer]) -> None:
        if not newcomers:
            return
        if self.drafter is not None:
            self.drafter.enter(newcomers)
        self.slots.enter(newcomers)
        for newcomer in newcomers:
            self.sampler.enter(newcomer)
            self._scored.pop(newcomer.slot, None)
            alternatives = newcomer.params.prompt_logprobs
            if alternatives is not None:
                self._scored[newcomer.slot] = (newcomer.num_prompt, alternatives)
        self.sampler.upload()

    def _draw(
        self,
        plan: Plan,
        logits: torch.Tensor,
        draws: Draws,
        prompts: dict[int, list[PendingLogprobs]],
        show: Callable[[], None] | None,
    ) -> PendingStep:
        """Draw from logits [M, V] and put the draws where the next step finds them."""
        slots, host_slots, lengths = draws.slots, draws.host_slots, draws.lengths
        table, codes = self.slots, draws.codes
        scored = not self.sampler.graphable(host_slots)
        if scored:
            logits = logits.float()
            drawn = self.sampler.draw(logits, slots, host_slots, lengths, table.tokens)
        else:
            drawn = torch.empty_like(lengths)
            self.sampler.draw_static(
                logits,
                slots,
                lengths,
                drawn,
                tokens=table.tokens if codes is None else None,
                filters=self.sampler.filters(host_slots),
            )
        if codes is not None:
            verify(drawn, slots, lengths, codes, table)
        elif scored:
            table.write(slots, lengths, drawn)
        logprobs = self.sampler.logprobs(logits, drawn, host_slots) if scored else None
        return self._pending(plan, draws, drawn, show, logprobs, prompts)

    def _pending(
        self,
        plan: Plan,
        draws: Draws,
        drawn: Numbers,
        show: Callable[[], None] | None = None,
        logprobs: tuple[list[int], PendingLogprobs] | None = None,
        prompts: dict[int, list[PendingLogprobs]] | None = None,
    ) -> PendingStep:
        """Draft behind what was drawn, and fetch it all."""
        proposals = self._speculate(plan, draws, show)
        proposing, counts = ([], []) if proposals is None else (proposals.rows, [proposals.counts])
        fetched = self.slots.staging.fetch(drawn, *counts)
        return PendingStep(
            plan, draws.rows, fetched, proposing, logprobs, prompts or {}, self._take_cold
        )

    def _speculate(
        self, plan: Plan, draws: Draws, show: Callable[[], None] | None
    ) -> Proposals | None:
        """Let the speculator see the step, and draft; verification has noted the lengths."""
        if self.drafter is None:
            return None
        if show is None and (plan.plain or not any(row.propose for row in plan.rows)):
            return None
        if not draws.verifies:
            self.slots.note(draws.slots, draws.lengths)
        if show is not None:
            show()
        return self.drafter.propose(plan)

    def _scores(self, plan: Plan) -> bool:
        """Whether log-probabilities of prompts are asked of the step."""
        return any(row.start < self._scored.get(row.slot, (0, 0))[0] for row in plan.rows)

    def _score_prompts(self, plan: Plan, hidden: torch.Tensor) -> dict[int, list[PendingLogprobs]]:
        """Log-probabilities of the prompt tokens after those computed in this step."""
        scores: dict[int, list[PendingLogprobs]] = {}
        offset = 0
        for index, row in enumerate(plan.rows):
            num_prompt, alternatives = self._scored.get(row.slot, (0, 0))
            end = min(row.start + row.count, num_prompt - 1)
            entries: list[PendingLogprobs] = []
            for start in range(row.start, end, _PROMPT_ROWS):
                stop = min(start + _PROMPT_ROWS, end)
                first = offset + start - row.start
                logits = self.model.logits(hidden[first : first + stop - start]).float()
                targets = self.slots.tokens[row.slot, start + 1 : stop + 1].long()
                entries.append(prompt_logprobs(logits, targets, alternatives))
            if entries:
                scores[index] = entries
            offset += row.count
        return scores
