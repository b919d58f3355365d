"""Verification of drafts: exact, by drawing what plain decoding would have drawn.

A draw is a function of the logits, the request's parameters and the pair (seed, position) alone.
So at each draft's position the token is drawn that plain decoding would draw there, and a draft is
accepted if it is that token. What is emitted is plain decoding's output itself, token by token, at
any temperature and under any penalty or filter. For a draft that was chosen without chance the
probability of acceptance is the token's own, as with rejection sampling (Leviathan et al., arXiv
2211.17192; Chen et al., arXiv 2302.01318), which gives the same distribution but other tokens.
"""

from __future__ import annotations

import torch

from .slot_kernels import LAST, OFFSET
from .slots import SlotTable

__all__ = ("REJECTED", "place_drafts", "verify")

# What stands in place of a token that was drawn behind a wrong draft.
REJECTED = -3


def verify(
    drawn: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    codes: torch.Tensor,
    table: SlotTable,
) -> None:
    """Keep each sequence's draws up to the first that differs from the draft in its place.

    What is kept is written into the slot table, with the number of tokens that the slot has now.
    Nothing waits for the device.

    Args:
        drawn: int64 [M], as the sampler gives them; REJECTED afterwards where they do not count.
        slots: int64 [M]; a sequence's draws stand side by side.
        lengths: int64 [M], the position each draw stands at; the table has the drafts there.
        codes: int64 [M], see ``slot_kernels``.
        table: the slot table.
    """
    if table.kernels is not None:
        table.kernels.verify(
            drawn,
            slots,
            lengths,
            codes,
            table.tokens,
            table.lengths,
            most=table.max_drafts,
            rejected=REJECTED,
        )
        return
    offsets, last = codes >> OFFSET, (codes & LAST).bool()
    drafts = table.tokens[slots, lengths]
    wrong = (drawn != drafts) | last
    # Offset of the last draw that counts, slot by slot.
    none = torch.iinfo(torch.int64).max
    kept = torch.full((len(table.tokens),), none, dtype=torch.int64, device=drawn.device)
    kept.scatter_reduce_(0, slots, torch.where(wrong, offsets, none), "amin")
    kept = kept[slots]
    counts = offsets <= kept
    # A failed draw is kept as a harmless 0.
    table.tokens[slots, lengths] = torch.where(counts, drawn.clamp(min=0).to(drafts.dtype), drafts)
    table.lengths[slots] = lengths - offsets + kept + 1
    drawn.copy_(torch.where(counts, drawn, REJECTED))


def place_drafts(
    drafts: torch.Tensor,
    wanted: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    table: SlotTable,
    vocab_size: int,
) -> torch.Tensor:
    """Put proposals behind the tokens of their slots, where the next step gathers them.

    Args:
        drafts: int64 [N, K], -1 where there is none.
        wanted: int64 [N], drafts that each row can use.
        slots: int64 [N].
        lengths: int64 [N], tokens of each slot.
        table: the slot table.
        vocab_size: drafts from there on become others, wrong ones.

    Returns:
        int64 [N], the number of drafts of each row.
    """
    if table.kernels is not None:
        return table.kernels.place(
            drafts, wanted, slots, lengths, table.tokens, vocab_size=vocab_size
        )
    columns = torch.arange(drafts.shape[1], device=drafts.device)
    # Filling is as good as any other wrong draft.
    placed = drafts.clamp(max=vocab_size - 1)
    table.write(slots.unsqueeze(-1), lengths.unsqueeze(-1) + columns, placed)
    return torch.minimum((drafts >= 0).cumprod(-1).sum(-1), wanted)
