"""The sampler: one token for every row of logits, as each request's parameters say."""

from __future__ import annotations

import torch

from ..step import Newcomer, TokenLogprobs
from .sample_filters import BLOCK, cut_off, likeliest, pick
from .sample_logprobs import prompt_logprobs, token_logprobs
from .sample_random import uniform
from .sample_rows import SamplingRows, Selection

__all__ = ("BROKEN", "EXHAUSTED", "Sampler", "prompt_logprobs")

# What stands in place of a token.
BROKEN = -1
EXHAUSTED = -2


class Sampler:
    """Draws tokens for slots.

    A draw is a function of the row's logits, the slot's parameters, its tokens, its seed and the
    position alone: it is the same whichever rows stand beside it. Work is done only for what some
    row of the batch asks for; a batch of greedy rows is an argmax and nothing else.

    Args:
        max_slots: sequences that may run at once.
        vocab_size: width of the logits.
        device: where logits and tokens live.
    """

    def __init__(self, *, max_slots: int, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._rows = SamplingRows(max_slots=max_slots, vocab_size=vocab_size, device=device)
        # Scratch, grown to the largest batch seen: fresh pages would cost more than the work.
        self._edited = torch.empty(0, vocab_size, device=device)
        self._scores = torch.empty(0, vocab_size, device=device)
        self._counts = torch.zeros(0, vocab_size, device=device)
        self._weights = torch.zeros(0, -(-vocab_size // BLOCK) * BLOCK, device=device)

    def enter(self, newcomer: Newcomer) -> None:
        """Give a slot the parameters of the sequence that enters it."""
        self._rows.enter(newcomer)

    @torch.inference_mode()
    def draw(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        host_slots: list[int],
        lengths: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """One token a row.

        Args:
            logits: float32 [M, V]; left as they are.
            slots: int64 [M], each row's slot, on the device.
            host_slots: the same on the host.
            lengths: int64 [M], tokens each slot knows; the draw stands at this position.
            tokens: int32 [max_slots, max_len], valid up to each slot's length.

        Returns:
            int64 [M]; BROKEN where the row's best logit is not finite, EXHAUSTED where the
            request's own settings forbid every token. Other rows are as they would be without it.
        """
        selection = self._rows.select(host_slots)
        if selection.edits is not None:
            model_is_sane = logits.amax(dim=-1).isfinite()
            self._edited = _grown(self._edited, len(logits))
            edited = self._edited[: len(logits)].copy_(logits)
            self._counts = _grown(self._counts, len(logits))
            selection.edits.apply(edited, slots, lengths, tokens, self._counts)
            drawn = self._choose(edited, selection, lengths)
            return torch.where((drawn == BROKEN) & model_is_sane, EXHAUSTED, drawn)
        return self._choose(logits, selection, lengths)

    def _choose(
        self, logits: torch.Tensor, selection: Selection, lengths: torch.Tensor
    ) -> torch.Tensor:
        """One token a row of edited logits, BROKEN where there is none."""
        num_sampled = len(selection.sampled)
        if num_sampled == len(logits):
            return self._sample(logits, selection, lengths)
        best = likeliest(logits)
        finite = logits.gather(-1, best.unsqueeze(-1)).squeeze(-1).isfinite()
        drawn = torch.where(finite, best, BROKEN)
        if num_sampled:
            rows = selection.sampled
            drawn[rows] = self._sample(logits[rows], selection, lengths[rows])
        return drawn

    def logprobs(
        self, logits: torch.Tensor, drawn: torch.Tensor, host_slots: list[int]
    ) -> list[TokenLogprobs | None] | None:
        """Log-probabilities of drawn tokens, for the rows that report them.

        Args:
            logits: float32 [M, V], the model's own.
            drawn: int64 [M], as ``draw`` gave them.
            host_slots: as for ``draw``.

        Returns:
            An entry a row, None for rows that do not ask or failed; None when no row asks. Waits
            for the device unless it is None.
        """
        asking = self._rows.select(host_slots).logprobs
        if not asking:
            return None
        rows = torch.tensor([row for row, _ in asking], device=self.device)
        chosen = drawn[rows]
        entries = token_logprobs(logits[rows], chosen.clamp(min=0), [most for _, most in asking])
        result: list[TokenLogprobs | None] = [None] * len(host_slots)
        for (row, _), entry, token in zip(asking, entries, chosen.tolist(), strict=True):
            if token >= 0:
                result[row] = entry
        return result

    def _sample(
        self, logits: torch.Tensor, selection: Selection, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Draw at random for the R sampled rows, whose logits and lengths these are."""
        count, size = logits.shape
        self._scores = _grown(self._scores, count)
        self._weights = _grown(self._weights, count)
        scores, padded = self._scores[:count], self._weights[:count]
        weights = padded[:, :size]
        best = logits.amax(dim=-1, keepdim=True)
        torch.sub(logits, best, out=scores).div_(selection.temperature)
        torch.exp(scores, out=weights)
        lowest = selection.min_score
        if selection.filtered is not None:
            lowest = self._filter(scores, weights, selection)
        if lowest is not None:
            weights.masked_fill_(scores < lowest, 0.0)
        drawn = pick(padded, uniform(selection.streams, lengths))
        return torch.where(best.squeeze(-1).isfinite(), drawn, BROKEN)

    def _filter(
        self, scores: torch.Tensor, weights: torch.Tensor, selection: Selection
    ) -> torch.Tensor:
        """The lowest score that stays in each of the R rows: float32 [R, 1]."""
        rows = selection.filtered
        count = len(scores)
        if rows is None or len(rows) == count:
            cut = cut_off(scores, weights, selection.top_k, selection.top_p)
        else:
            cut = torch.full((count,), -torch.inf, device=scores.device)
            cut[rows] = cut_off(scores[rows], weights[rows], selection.top_k, selection.top_p)
        cut = cut.unsqueeze(-1)
        return cut if selection.min_score is None else torch.maximum(cut, selection.min_score)


def _grown(scratch: torch.Tensor, rows: int) -> torch.Tensor:
    return scratch if len(scratch) >= rows else scratch.new_zeros(rows, scratch.shape[1])
