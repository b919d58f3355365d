"""Changes that requests make to their own logits before a token is drawn.

In order: bias, allowed tokens, tokens that may not stand yet (min_tokens), bad words, penalties.
Everything is read from tensors on the device, because the host may not know the latest token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ("Allowed", "BadWords", "Bias", "EarlyStops", "Edits", "Penalties")


@dataclass(frozen=True, slots=True)
class Bias:
    """Entry i adds values[i] to the logit of token ids[i] in row rows[i]; no pair comes twice."""

    rows: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor

    def apply(self, logits: torch.Tensor) -> None:
        """Add."""
        logits.index_put_((self.rows, self.ids), self.values, accumulate=True)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Entry i lets row rows[i] have token ids[i]; ``confined`` names each such row once."""

    confined: torch.Tensor
    rows: torch.Tensor
    ids: torch.Tensor

    def apply(self, logits: torch.Tensor) -> None:
        """Forbid all other tokens."""
        kept = logits[self.rows, self.ids]
        logits.index_fill_(0, self.confined, -torch.inf)
        logits[self.rows, self.ids] = kept


@dataclass(frozen=True, slots=True)
class EarlyStops:
    """Entry i forbids token ids[i] in row rows[i] while the row is shorter than until[i]."""

    rows: torch.Tensor
    ids: torch.Tensor
    until: torch.Tensor

    def apply(self, logits: torch.Tensor, lengths: torch.Tensor) -> None:
        """Forbid them where it is too early."""
        early = lengths[self.rows] < self.until
        _forbid(logits, self.rows, self.ids, early)


@dataclass(frozen=True, slots=True)
class BadWords:
    """Entry i forbids token last[i] in row rows[i] when the row ends with prefix[i].

    Attributes:
        rows: int64 [N].
        last: int64 [N].
        prefix: int64 [N, P], aligned right and filled up with -1.
    """

    rows: torch.Tensor
    last: torch.Tensor
    prefix: torch.Tensor

    def apply(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
    ) -> None:
        """Forbid each word's last token where the rest of the word stands at the end."""
        width = self.prefix.shape[1]
        offsets = torch.arange(-width, 0, device=logits.device)
        positions = lengths[self.rows].unsqueeze(-1) + offsets
        tail = tokens[slots[self.rows].unsqueeze(-1), positions.clamp(min=0)]
        same = (tail == self.prefix) & (positions >= 0)
        complete = (same | (self.prefix < 0)).all(dim=-1)
        _forbid(logits, self.rows, self.last, complete)


@dataclass(frozen=True, slots=True)
class Penalties:
    """Penalties on tokens that were seen already.

    Attributes:
        rows: int64 [P].
        num_prompt: int64 [P, 1].
        repetition: float32 [P, 1], over prompt and output.
        presence: float32 [P, 1], over the output.
        frequency: float32 [P, 1], over the output.
    """

    rows: torch.Tensor
    num_prompt: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor

    def apply(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """Penalise.

        The work is proportional to the tokens seen, not to the vocabulary: ``counts``, float32
        [P, V] and all zero, is filled and cleared again only where there are tokens.
        """
        lengths = lengths[self.rows].unsqueeze(-1)
        # A CPU may look at the lengths; elsewhere that would make the host wait.
        width = tokens.shape[1] if logits.is_cuda else int(lengths.max())
        positions = torch.arange(width, device=logits.device)
        seen = tokens[slots[self.rows], :width].long()
        # What stands beyond the end is read as one more sight of the first token, not counted.
        seen = torch.where(positions < lengths, seen, seen[:, :1])
        emitted = (positions >= self.num_prompt) & (positions < lengths)
        counts.scatter_add_(1, seen, emitted.to(counts.dtype))
        count = counts.gather(1, seen)
        counts.scatter_(1, seen, 0.0)
        value = logits[self.rows.unsqueeze(-1), seen]
        value = torch.where(value > 0, value / self.repetition, value * self.repetition)
        value -= self.frequency * count
        value -= self.presence * (count > 0)
        # A token seen twice is written twice, with one and the same value.
        logits[self.rows.unsqueeze(-1), seen] = value


@dataclass(frozen=True, slots=True)
class Edits:
    """What the rows of one batch ask for; None where no row does."""

    bias: Bias | None = None
    allowed: Allowed | None = None
    early_stops: EarlyStops | None = None
    bad_words: BadWords | None = None
    penalties: Penalties | None = None

    def apply(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        counts: torch.Tensor,
    ) -> None:
        """Change logits, float32 [M, V], in place.

        Args:
            logits: to change.
            slots: int64 [M], each row's.
            lengths: int64 [M], tokens each row's slot knows.
            tokens: int32 [max_slots, max_len].
            counts: float32, zeros, at least a row for each row with penalties; zeros again after.
        """
        if self.bias is not None:
            self.bias.apply(logits)
        if self.allowed is not None:
            self.allowed.apply(logits)
        if self.early_stops is not None:
            self.early_stops.apply(logits, lengths)
        if self.bad_words is not None:
            self.bad_words.apply(logits, slots, lengths, tokens)
        if self.penalties is not None:
            counts = counts[: len(self.penalties.rows)]
            self.penalties.apply(logits, slots, lengths, tokens, counts)


def _forbid(
    logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, where: torch.Tensor
) -> None:
    """Adding, not setting: one pair may come twice and be forbidden once."""
    minus = torch.where(where, -torch.inf, 0.0)
    logits.index_put_((rows, ids), minus, accumulate=True)
