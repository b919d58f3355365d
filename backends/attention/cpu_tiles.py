"""Products of attention on a CPU that give a query the same bits whatever else they multiply.

A library of products adds in another order for few rows, for many, for few keys, and where its
threads share one product. What of that holds is seen by trying; MKL on a Xeon needs all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...core.layers.scripted import scripted

__all__ = ("MOST", "SEGMENT", "Tile", "attend", "tile_for")

SEGMENT = 128
"""Positions whose values are summed together; a row's first key stands at a multiple of it."""
MOST = 64
"""Most queries, times the heads that share a key, in one product; half of a segment."""
_QUERIES = (1, 2, 4, 8, 16)
_KEYS = (16, 32, 64, SEGMENT)


class Tile(NamedTuple):
    """What products must have for a query to get the same bits from all of them.

    Attributes:
        queries: whose multiples are taken.
        keys: fewest.
    """

    queries: int
    keys: int


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
    scale: float,
    soft_cap: float | None,
    tile: int,
) -> torch.Tensor:
    """The definition, by batched products.

    Args:
        q: float32 [b, n, d], n at most half of the keys.
        keys: float32 [b, keys, d], from position start on, the same for all n.
        values: likewise.
        mask: float32 [b or 1, n or 1, keys], 0 or -inf; None where every query sees all keys.
        start: position of the first key.
        scale: of the scores.
        soft_cap: of the scores, or None.
        tile: queries at a time.

    Returns:
        float32 [b, n, d].
    """
    batch, count = q.shape[0], q.shape[1]
    # Threads share one product, and divide a batch: a batch of one is made one of two.
    halves = 2 if batch == 1 else 1
    missing = -count % (halves * tile)
    if count == 1:
        # Padding that repeats the query costs less than zeros.
        q = q.expand(-1, halves * tile, -1)
    elif missing:
        q = F.pad(q, (0, 0, 0, missing))
        if mask is not None and mask.shape[1] > 1:
            mask = F.pad(mask, (0, 0, 0, missing))
    q = q.contiguous()
    if halves == 2:
        q = q.view(2, -1, q.shape[2])
        keys, values = keys.expand(2, -1, -1), values.expand(2, -1, -1)
        if mask is not None and mask.shape[1] > 1:
            mask = mask.view(2, -1, mask.shape[2])
    if soft_cap is None:
        scores = _scores(q, keys, mask, scale)
    else:
        scores = _scores(q, keys, None, scale / soft_cap).tanh_().mul_(soft_cap)
        if mask is not None:
            scores.add_(mask)
    found = _weighted(scores.softmax(-1), values, start)
    return found.view(batch, -1, found.shape[2])[:, :count]


def _scores(
    q: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """mask + scale * q @ keys.T in one operation."""
    if mask is None:
        return torch.baddbmm(q.new_empty([1, 1, 1]), q, keys.mT, beta=0.0, alpha=scale)
    return torch.baddbmm(mask, q, keys.mT, alpha=scale)


def _weighted(
    weights: torch.Tensor, values: torch.Tensor, start: int, segment: int = SEGMENT
) -> torch.Tensor:
    """weights @ values, a segment of positions after the other."""
    size, length = segment - start % segment, values.shape[1]
    if length <= size:
        return torch.bmm(weights, values)
    out = torch.bmm(weights[:, :, :size], values[:, :size])
    for at in range(size, length, segment):
        out.baddbmm_(weights[:, :, at : at + segment], values[:, at : at + segment])
    return out


attend = scripted(_attend)


@cache
def tile_for(head_dim: int) -> Tile:
    """The smallest that is steady for queries of this width; the largest where none is."""
    steps = torch.linspace(-3, 5, 1024 * head_dim).sin()
    keys = steps.view(1, 1024, head_dim)
    query = steps[:head_dim] * 3 + steps[-head_dim:]
    weights = steps[:SEGMENT].exp()

    def steady(queries: int, fewest: int) -> bool:
        expected: tuple[torch.Tensor, ...] | None = None
        for batch, count, length in _sizes(queries, fewest):
            several = keys[:, :length].expand(batch, -1, -1).contiguous()
            rows = query.expand(batch, count, -1).contiguous()
            shares = weights[:length].expand(batch, count, -1).contiguous()
            shares[..., fewest:] = 0
            found = (
                _scores(rows, several, several.new_zeros(1, 1, length), 0.3)[..., :fewest],
                torch.bmm(shares, several[:, : shares.shape[2]]),
            )
            expected = expected or tuple(part[0, 0] for part in found)
            if not all(bool((x == y).all()) for x, y in zip(found, expected, strict=True)):
                return False
        return True

    with torch.inference_mode():
        for queries in _QUERIES:
            for fewest in _KEYS:
                if steady(queries, fewest):
                    return Tile(queries, fewest)
    return Tile(_QUERIES[-1], _KEYS[-1])


def _sizes(queries: int, fewest: int) -> Iterator[tuple[int, int, int]]:
    """(batch, queries, keys) of products to be compared."""
    lengths = {fewest, fewest + 16, fewest + 48, 2 * fewest, 2 * fewest + 16, 256, 512, 1024}
    for length in sorted(lengths):
        most = max(queries, min(MOST, length // 2))
        for count in sorted({queries, 2 * queries, 3 * queries, 5 * queries, most}):
            if count <= most and count % queries == 0:
                yield from ((batch, count, length) for batch in (2, 3, 16))
