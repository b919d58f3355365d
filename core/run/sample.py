"""The sampler: one token for every row of logits, as each request's parameters say."""

from __future__ import annotations

import torch

from ..step import Newcomer
from .sample_filters import BLOCK, cut_off, likeliest, pick
from .sample_logprobs import PendingLogprobs, prompt_logprobs
from .sample_random import uniform
from .sample_rows import RandomDraws, SamplingRows, Selection
from .sample_table import Draw, ParameterTable

__all__ = ("BROKEN", "EXHAUSTED", "PendingLogprobs", "Sampler", "prompt_logprobs")

# What stands in place of a token.
BROKEN = -1
EXHAUSTED = -2


class Sampler:
    """Draws tokens for slots.

    A draw is a function of the row's logits, the slot's parameters, its tokens, its seed and the
    position alone: it is the same whichever rows stand beside it. Work is done only for what some
    row of the batch asks for; a batch of greedy rows is an argmax and nothing else. Nothing here
    waits for the device.

    Args:
        max_slots: sequences that may run at once.
        vocab_size: width of the logits.
        device: where logits and tokens live.
        kernels: draw in place of torch's operators.
    """

    def __init__(
        self,
        *,
        max_slots: int,
        vocab_size: int,
        device: torch.device,
        kernels: Draw | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._kernels = kernels
        self._table = None if kernels is None else ParameterTable(max_slots, device)
        self._rows = SamplingRows(
            max_slots=max_slots, vocab_size=vocab_size, device=device, table=self._table
        )
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
            logits: float [M, V]; left as they are.
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
            drawn = self._choose(edited, selection, slots, lengths)
            return torch.where((drawn == BROKEN) & model_is_sane, EXHAUSTED, drawn)
        return self._choose(logits, selection, slots, lengths)

    def graphable(self, host_slots: list[int]) -> bool:
        """Whether ``draw_static`` draws all that these slots ask for: no edits, no logprobs."""
        return self._kernels is not None and self._rows.plain(host_slots)

    def filters(self, host_slots: list[int]) -> bool:
        """Whether one of these slots has a filter, so that ``draw_static`` must look for them."""
        return self._rows.filters(host_slots)

    def upload(self) -> None:
        """Copy the parameters of slots entered since the last time to where kernels read them."""
        if self._table is not None:
            self._table.upload()

    def draw_static(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        out: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        filters: bool = True,
    ) -> None:
        """Draw by launching kernels on these tensors and nothing else, so that a graph can hold it.

        A replay draws what the slots ask for then, as of the last ``upload`` before it.

        Args:
            logits: float [M, V].
            slots: int64 [M]; max_slots in rows that are padding.
            lengths: int64 [M], as for ``draw``.
            out: int64 [M], to be filled as ``draw`` returns it; without meaning for padding.
            tokens: int32 [max_slots + 1, max_len], where drawn tokens are written at their
                positions.
            filters: False promises that ``filters`` is false of every batch, which is faster.

        Raises:
            RuntimeError: where no kernels were given.
        """
        if self._kernels is None or self._table is None:
            raise RuntimeError("this sampler has no kernels; graphable() is false of every batch")
        self._kernels(logits, slots, lengths, self._table.rows, out, tokens=tokens, filters=filters)

    def _choose(
        self,
        logits: torch.Tensor,
        selection: Selection,
        slots: torch.Tensor,
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """One token a row of edited logits, BROKEN where there is none."""
        draws = selection.draws
        if draws is None:
            self.upload()
            # Zeros are tokens also where a kernel is only compiled.
            drawn = torch.zeros_like(lengths)
            self.draw_static(logits, slots, lengths, drawn, filters=selection.filters)
            return drawn
        logits = logits.float()
        num_sampled = len(draws.rows)
        if num_sampled == len(logits):
            return self._sample(logits, draws, lengths)
        drawn = likeliest(logits, BROKEN)
        if num_sampled:
            rows = draws.rows
            drawn[rows] = self._sample(logits[rows], draws, lengths[rows])
        return drawn

    def logprobs(
        self, logits: torch.Tensor, drawn: torch.Tensor, host_slots: list[int]
    ) -> tuple[list[int], PendingLogprobs] | None:
        """Log-probabilities of drawn tokens, for the rows that report them.

        Args:
            logits: float [M, V], the model's own.
            drawn: int64 [M], as ``draw`` gave them.
            host_slots: as for ``draw``.

        Returns:
            Which rows, and an entry for each on its way to the host (None for rows that failed);
            None when no row asks.
        """
        if self._rows.plain(host_slots):
            return None
        selection = self._rows.select(host_slots)
        if not selection.logprobs:
            return None
        rows, host_rows = selection.logprob_rows
        return host_rows, PendingLogprobs(logits[rows], drawn[rows], selection.logprobs)

    def _sample(
        self, logits: torch.Tensor, draws: RandomDraws, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Draw at random for the R sampled rows, whose logits and lengths these are."""
        count, size = logits.shape
        self._scores = _grown(self._scores, count)
        self._weights = _grown(self._weights, count)
        scores, padded = self._scores[:count], self._weights[:count]
        weights = padded[:, :size]
        best = logits.amax(dim=-1, keepdim=True)
        torch.sub(logits, best, out=scores).div_(draws.temperature)
        torch.exp(scores, out=weights)
        lowest = draws.min_score
        if draws.filtered is not None:
            lowest = self._filter(scores, weights, draws)
        if lowest is not None:
            weights.masked_fill_(scores < lowest, 0.0)
        drawn = pick(padded, uniform(draws.streams, lengths))
        return torch.where(best.squeeze(-1).isfinite(), drawn, BROKEN)

    def _filter(
        self, scores: torch.Tensor, weights: torch.Tensor, draws: RandomDraws
    ) -> torch.Tensor:
        """The lowest score that stays in each of the R rows: float32 [R, 1]."""
        rows = draws.filtered
        count = len(scores)
        if rows is None or len(rows) == count:
            cut = cut_off(scores, weights, draws.top_k, draws.top_p)
        else:
            cut = torch.full((count,), -torch.inf, device=scores.device)
            cut[rows] = cut_off(scores[rows], weights[rows], draws.top_k, draws.top_p)
        cut = cut.unsqueeze(-1)
        return cut if draws.min_score is None else torch.maximum(cut, draws.min_score)


def _grown(scratch: torch.Tensor, rows: int) -> torch.Tensor:
    return scratch if len(scratch) >= rows else scratch.new_zeros(rows, scratch.shape[1])
