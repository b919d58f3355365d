"""From logits to one token a row: top-k, top-p, min-p, and the draw."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ("BLOCK", "cut_off", "likeliest", "pick")

# Width of the first level of the search through cumulative weights.
BLOCK = 128
# Likeliest tokens that are looked at first on a CPU; a wider nucleus costs a sort of the row.
_CANDIDATES = 256
# Rows sorted together: what they take stays in the processor's cache.
_ROWS = 8


def likeliest(logits: torch.Tensor, broken: int) -> torch.Tensor:
    """Index of each row's maximum, the first of several: [M, V] -> int64 [M].

    A row whose maximum is not finite, or that holds a NaN, gives ``broken``.
    """
    if logits.is_cuda or logits.dtype != torch.float32:
        best = logits.argmax(dim=-1)
        finite = logits.gather(-1, best.unsqueeze(-1)).squeeze(-1).isfinite()
        return torch.where(finite, best, broken)
    # numpy's vectorised argmax is twenty times as fast as torch's on a CPU.
    scores = logits.numpy()
    found = scores.argmax(axis=-1)
    found[~np.isfinite(scores[np.arange(len(found)), found])] = broken
    return torch.from_numpy(found)


def cut_off(
    scores: torch.Tensor, weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """The lowest score that survives top-k and then top-p in each row.

    The nucleus of top-p is the smallest set of likeliest tokens, among the k likeliest, whose
    probability (renormalised over these k) reaches p. Tokens that score the same as the last one
    kept are kept as well, so the result does not depend on the order of a sort.

    Args:
        scores: float32 [R, V], logits over temperature minus the row's maximum.
        weights: float32 [R, V], their exponentials.
        top_k: int64 [R]; V or more keeps all.
        top_p: float64 [R]; 1 keeps all.

    Returns:
        float32 [R].
    """
    size = scores.shape[-1]
    total = torch.where(top_k >= size, weights.sum(dim=-1, dtype=torch.float64), -1.0)
    if scores.is_cuda:
        # A look at the result would make the host wait for the device, so sort at once.
        ordered = scores.sort(dim=-1, descending=True).values
        return _cut_sorted(ordered, top_k, top_p, total)[0]
    found, enough = _cut_best(scores, _CANDIDATES, top_k, top_p, total)
    if not bool(enough.all()):
        for rows in torch.split((~enough).nonzero().flatten(), _ROWS):
            exact = _cut_best(scores[rows], size, top_k[rows], top_p[rows], total[rows])
            found[rows] = exact[0]
    return found


def pick(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert each row's cumulative weight at a uniform number, in vocabulary order.

    Args:
        weights: float32 [R, W], 0 or more, W a multiple of BLOCK.
        uniforms: float64 [R] in (0, 1).

    Returns:
        int64 [R]: tokens of positive weight, in every row whose sum is positive and finite.
    """
    blocks = weights.view(len(weights), -1, BLOCK)
    index, target = _search(blocks.sum(dim=-1), uniforms.unsqueeze(-1), None)
    inner = blocks.gather(1, index.unsqueeze(-1).expand(-1, -1, BLOCK)).squeeze(1)
    offset, _ = _search(inner, None, target)
    return (index * BLOCK + offset).squeeze(-1)


def _search(
    weights: torch.Tensor, share: torch.Tensor | None, target: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The column where cumulative weight passes a target (or a share of all), and what is left.

    The target is kept below the sum, so that rounding cannot lead beyond the last positive
    weight; and a column is chosen only if the sum grows there, so never one of weight 0.
    """
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:]
    if target is None and share is not None:
        target = share * total
    if target is None:
        raise ValueError("a search needs a share or a target")
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[-1] - 1)
    before = sums.gather(-1, (index - 1).clamp_(min=0))
    return index, target - torch.where(index > 0, before, 0.0)


def _cut_best(
    scores: torch.Tensor, count: int, top_k: torch.Tensor, top_p: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``_cut_sorted`` for the ``count`` highest scores of each row, on a CPU."""
    values = scores.numpy()
    first = values.shape[-1] - count
    if first > 0:
        values = np.partition(values, first, axis=-1)[:, first:]
    ordered = torch.from_numpy(np.sort(values, axis=-1)).flip(-1)
    return _cut_sorted(ordered, top_k, top_p, total)


def _cut_sorted(
    ordered: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last surviving score among sorted ones, and whether looking at these was enough.

    A total of -1 stands for the sum over the k best of the row.
    """
    width = ordered.shape[-1]
    sums = ordered.exp().cumsum(dim=-1, dtype=torch.float64)
    of_best = sums.gather(-1, (top_k - 1).clamp(max=width - 1).unsqueeze(-1)).squeeze(-1)
    in_sight = (total >= 0) | (top_k <= width)
    total = torch.where(total < 0, of_best, total)
    # A token stays while the mass of those before it falls short; p = 1 cuts nothing whatever
    # the rounding.
    limit = torch.where(top_p < 1, top_p * total, torch.inf).unsqueeze(-1)
    kept = torch.searchsorted(sums, limit).squeeze(-1).add_(1).minimum(top_k)
    last = (kept - 1).clamp(max=width - 1).unsqueeze(-1)
    return ordered.gather(-1, last).squeeze(-1), in_sight & (kept <= width)
