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

from .slots import SlotTable

__all__ = ("REJECTED", "place_drafts", "verify")

# What stands in place of a token that was drawn behind a wrong draft.
REJECTED = -3


def verify(
    drawn: torch.Tensor,
    slots: torch.Tensor,
    lengths: torch.Tensor,
    offsets: torch.Tensor,
    last: torch.Tensor,
    table: SlotTable,
) -> torch.Tensor:
    """Keep each row's draws up to the first that differs from the draft in its place.

    What is kept is written into the slot table, with the number of tokens that the slot has now.
    Nothing waits for the device.

    Args:
        drawn: int64 [M], as the sampler gives them; all draws of a row have its slot.
        slots: int64 [M].
        lengths: int64 [M], the position each draw stands at; the table has the drafts there.
        offsets: int64 [M], 0 for the first draw of a row, 1 for the next one, and so on.
        last: bool [M], whether no draft stands at the position.
        table: the slot table.

    Returns:
        int64 [M]: the draws, REJECTED where they do not count.
    """
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
    return torch.where(counts, drawn, REJECTED)


def place_drafts(
    drafts: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, table: SlotTable
) -> torch.Tensor:
    """Put proposals behind the tokens of their slots, where the next step gathers them.

    Args:
        drafts: int64 [N, K], -1 where there is none.
        slots: int64 [N].
        lengths: int64 [N], tokens of each slot.
        table: the slot table.

    Returns:
        int64 [N], the number of drafts of each row.
    """
    columns = torch.arange(drafts.shape[1], device=drafts.device)
    # Filling is as good as any other wrong draft.
    table.write(slots.unsqueeze(-1), lengths.unsqueeze(-1) + columns, drafts)
    return (drafts >= 0).cumprod(-1).sum(-1)
