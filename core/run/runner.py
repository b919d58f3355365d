"""The runner: everything that happens on the device in a step."""

from __future__ import annotations

import torch

from ..contracts.attention import AttentionBackend
from ..contracts.model import Architecture
from ..step import Newcomer, Outcome, Plan, TokenLogprobs
from .batch import Batch, make_batch
from .sample import BROKEN, EXHAUSTED, Sampler, prompt_logprobs
from .slots import SlotTable

__all__ = ("PendingStep", "Runner")

# Rows of prompt logits computed at once: bounds their memory at 256 x vocabulary x 4 bytes.
_PROMPT_ROWS = 256
_BROKEN = "the model's output for this request is not a number"


class PendingStep:
    """A launched step; ``wait`` copies its tokens to the host."""

    def __init__(
        self,
        plan: Plan,
        batch: Batch,
        drawn: torch.Tensor,
        logprobs: list[TokenLogprobs | None] | None,
        prompts: dict[int, list[TokenLogprobs]],
    ) -> None:
        self._plan = plan
        self._batch = batch
        self._logprobs = logprobs
        self._prompts = prompts
        self._event: torch.cuda.Event | None = None
        self._drawn = drawn
        if drawn.is_cuda:
            self._drawn = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
            self._drawn.copy_(drawn, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> Outcome:
        """The step's tokens, once the device has drawn them."""
        if self._event is not None:
            self._event.synchronize()
        tokens: list[list[int]] = [[] for _ in self._plan.rows]
        outcome = Outcome(self._plan.step, tokens, prompt_logprobs=self._prompts)
        rows = self._batch.sample_rows
        for index, token in zip(rows, self._drawn.tolist(), strict=True):
            if token == BROKEN:
                outcome.failures[index] = _BROKEN
            elif token == EXHAUSTED:
                outcome.exhausted.append(index)
            else:
                tokens[index].append(token)
        for index, entry in zip(rows, self._logprobs or (), strict=False):
            if entry is not None:
                outcome.logprobs[index] = [entry]
        return outcome


class Runner:
    """Owns the model, its cache and the slot table on one device.

    Args:
        model: with its weights.
        attention: backend whose cache is allocated.
        max_slots: sequences that may run at once.
        max_model_len: tokens of one sequence.
        vocab_size: rows of the model's head.
        device: where all of it lives.
    """

    def __init__(
        self,
        model: Architecture,
        attention: AttentionBackend,
        *,
        max_slots: int,
        max_model_len: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self.attention = attention
        self.slots = SlotTable(
            max_slots=max_slots,
            max_model_len=max_model_len,
            block_size=attention.block_size,
            device=device,
        )
        self.sampler = Sampler(max_slots=max_slots, vocab_size=vocab_size, device=device)
        # Slot -> (number of prompt tokens, alternatives asked for), for prompt log-probabilities.
        self._scored: dict[int, tuple[int, int]] = {}

    @torch.inference_mode()
    def execute(self, plan: Plan) -> PendingStep:
        """Launch one step; the outcome comes from the handle."""
        for newcomer in plan.newcomers:
            self._enter(newcomer)
        self.slots.append_blocks(plan.rows)
        batch = make_batch(plan, self.slots)
        hidden = self._forward(batch)
        prompts = self._score_prompts(plan, hidden) if self._scored else {}
        if not batch.sample_rows:
            return PendingStep(plan, batch, hidden.new_empty(0, dtype=torch.int64), None, prompts)
        last = hidden if batch.last_tokens is None else hidden[batch.last_tokens]
        logits = self.model.logits(last)
        drawn = self.sampler.draw(
            logits, batch.slots, batch.sample_slots, batch.lengths, self.slots.tokens
        )
        self._remember(batch, drawn)
        logprobs = self.sampler.logprobs(logits, drawn, batch.sample_slots)
        return PendingStep(plan, batch, drawn, logprobs, prompts)

    def _enter(self, newcomer: Newcomer) -> None:
        self.slots.enter(newcomer)
        self.sampler.enter(newcomer)
        self._scored.pop(newcomer.slot, None)
        alternatives = newcomer.params.prompt_logprobs
        if alternatives is not None:
            self._scored[newcomer.slot] = (newcomer.num_prompt, alternatives)

    def _forward(self, batch: Batch) -> torch.Tensor:
        prepared = self.attention.prepare(batch.attention)
        attend = self.attention.attend

        def step_attend(
            layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
        ) -> torch.Tensor:
            return attend(layer, q, k, v, prepared)

        return self.model.forward(batch.token_ids, batch.positions, step_attend)

    def _remember(self, batch: Batch, drawn: torch.Tensor) -> None:
        """Put the draws where the next step finds them; a failed draw as a harmless 0."""
        self.slots.tokens[batch.slots, batch.lengths] = drawn.clamp(min=0).to(torch.int32)

    def _score_prompts(self, plan: Plan, hidden: torch.Tensor) -> dict[int, list[TokenLogprobs]]:
        """Log-probabilities of the prompt tokens after those computed in this step."""
        scores: dict[int, list[TokenLogprobs]] = {}
        offset = 0
        for index, row in enumerate(plan.rows):
            num_prompt, alternatives = self._scored.get(row.slot, (0, 0))
            end = min(row.start + row.count, num_prompt - 1)
            entries: list[TokenLogprobs] = []
            for start in range(row.start, end, _PROMPT_ROWS):
                stop = min(start + _PROMPT_ROWS, end)
                first = offset + start - row.start
                logits = self.model.logits(hidden[first : first + stop - start])
                targets = self.slots.tokens[row.slot, start + 1 : stop + 1].long()
                entries += prompt_logprobs(logits, targets, alternatives)
            if entries:
                scores[index] = entries
            offset += row.count
        return scores
