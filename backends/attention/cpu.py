"""Attention on a CPU, with torch alone.

The cache is head-major, so that a decode step gathers whole blocks straight into the batched
layout that products want, or reads a row in place when its blocks stand in a line.

A query's result does not depend on the queries beside it, on how its prompt was cut, or on what
was cached: everything is float32; keys come in whole blocks, queries in multiples of a tile for
which the products add in one order whatever their number; values are summed in segments at fixed
positions. Keys beyond a query's own add exact zeros.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from ...core.contracts.attention import (
    AttentionBackend,
    AttentionBatch,
    AttentionSpec,
    Rotation,
)
from ...core.contracts.capabilities import Capabilities
from .cpu_geometry import SEGMENT, DecodeGroup, Geometry, Layout, PromptRow, Step, plan_step

__all__ = ("CPUAttention",)

_ROWS = 128
"""Most queries, times the heads that share a key, in one product of a prompt."""
_TILES = (1, 2, 4, 8, 16)


class _Cache:
    """One layer's, [2, kv heads, blocks, block size, head_dim], and its halves by slot."""

    def __init__(self, whole: torch.Tensor) -> None:
        self.whole = whole
        self.keys, self.values = whole.flatten(2, 3).unbind(0)


class CPUAttention(AttentionBackend):
    """See AttentionBackend.

    A block's unwritten slots are zero: a sequence must not meet what another left there, even
    masked, since a NaN survives a mask.
    """

    capabilities = Capabilities(
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16"}),
        kv_dtypes=frozenset({"float32", "bfloat16"}),
        features=frozenset(
            {"sliding_window", "soft_cap", "overlap", "speculation", "deterministic"}
        ),
    )

    def __init__(
        self,
        layers: list[AttentionSpec],
        *,
        block_size: int,
        kv_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layers, block_size=block_size, kv_dtype=kv_dtype, device=device)
        self._layouts = [Layout(spec.window, spec.num_kv_heads, spec.head_dim) for spec in layers]
        self._caches: list[_Cache] = []
        self._num_blocks = 0
        # What blocks are gathered into: memory that is already there costs no page faults.
        self._workspace = torch.empty(0, dtype=kv_dtype)

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        self._caches.clear()
        self._num_blocks = num_blocks
        for spec in self.layers:
            shape = (2, spec.num_kv_heads, num_blocks, self.block_size, spec.head_dim)
            self._caches.append(_Cache(torch.zeros(shape, dtype=self.kv_dtype)))

    def prepare(self, batch: AttentionBatch) -> Step:
        return plan_step(
            batch,
            list(dict.fromkeys(self._layouts)),
            block_size=self.block_size,
            num_blocks=self._num_blocks,
            kv_bytes=self.kv_dtype.itemsize,
        )

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: Step,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        if rotation is not None:
            rotation.apply(q, k)
        cache = self._caches[layer]
        if prepared.fresh is not None:
            cache.whole.index_fill_(2, prepared.fresh, 0)
        cache.keys.index_copy_(1, prepared.write_slots, k.to(self.kv_dtype).transpose(0, 1))
        cache.values.index_copy_(1, prepared.write_slots, v.to(self.kv_dtype).transpose(0, 1))
        spec = self.layers[layer]
        geometry = prepared.geometries[self._layouts[layer]]
        scaled = q.float() * spec.scale
        if geometry.alone:
            out = self._decode(scaled, cache, geometry.groups[0], spec)
        else:
            out = self._mixed(scaled, cache, geometry, spec)
        return out.to(q.dtype)

    def _mixed(
        self, q: torch.Tensor, cache: _Cache, geometry: Geometry, spec: AttentionSpec
    ) -> torch.Tensor:
        """Several groups, prompts, or both: [T, heads * head_dim]."""
        out = torch.empty(q.shape)
        for group in geometry.groups:
            found = self._decode(q[group.rows], cache, group, spec)
            out[group.rows] = found.view(-1, spec.num_heads, spec.head_dim)
        for prompt in geometry.prompts:
            self._prompt(q, cache, prompt, spec, out)
        return out.flatten(1)

    def _decode(
        self, q: torch.Tensor, cache: _Cache, group: DecodeGroup, spec: AttentionSpec
    ) -> torch.Tensor:
        """One query a row, [B, heads, head_dim] -> [B, heads * head_dim]."""
        keys, values = self._read(cache, group.span, group.index, group.count, spec)
        q = q.view(group.count, spec.num_kv_heads, -1, spec.head_dim)
        out = _attend(_padded(q), keys, values, group.mask, 0, spec)[:, :, : q.shape[2]]
        return out.reshape(group.count, spec.num_heads * spec.head_dim)

    def _read(
        self,
        cache: _Cache,
        span: tuple[int, int] | None,
        index: torch.Tensor | None,
        count: int,
        spec: AttentionSpec,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, float32 [count, kv heads, positions, head_dim], till the next call."""
        if span is not None:
            keys, values = cache.keys.narrow(1, *span)[None], cache.values.narrow(1, *span)[None]
        else:
            keys, values = self._gather(cache, index, count, spec)
        return keys.float(), values.float()

    def _gather(
        self, cache: _Cache, index: torch.Tensor | None, count: int, spec: AttentionSpec
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [count, kv heads, positions, head_dim], valid until the next call."""
        if index is None:
            raise RuntimeError("a row with nothing to gather")
        width = self.block_size * spec.head_dim
        size = index.numel() * width
        if self._workspace.numel() < size:
            self._workspace = torch.empty(size, dtype=self.kv_dtype)
        out = self._workspace[:size].view(index.numel(), width)
        torch.index_select(cache.whole.view(-1, width), 0, index, out=out)
        keys, values = out.view(2, count, spec.num_kv_heads, -1, spec.head_dim).unbind(0)
        return keys, values

    def _prompt(
        self,
        q: torch.Tensor,
        cache: _Cache,
        prompt: PromptRow,
        spec: AttentionSpec,
        out: torch.Tensor,
    ) -> None:
        """Several queries of one row, into their place in out [T, heads, head_dim]."""
        keys, values = self._read(cache, prompt.span, prompt.index, 1, spec)
        # [T, heads, d] -> [kv heads, heads of each, T, d]
        grouped = (len(q), spec.num_kv_heads, -1, spec.head_dim)
        q, out = q.view(grouped).permute(1, 2, 0, 3), out.view(grouped).permute(1, 2, 0, 3)
        shared, tile = q.shape[1], _tile()
        step = max(tile, _ROWS // shared // tile * tile)
        for begin in range(prompt.begin, prompt.end, step):
            end = min(begin + step, prompt.end)
            first = prompt.first + begin - prompt.begin
            start, stop = self._seen(first, first + end - begin, prompt.base, spec)
            seen = slice(start - prompt.base, stop - prompt.base)
            piece = _padded(q[:, :, begin:end])
            mask = _mask(first, piece.shape[2], start, stop, spec.window)
            rows = piece.shape[2]
            found = _attend(
                piece.reshape(1, len(piece), shared * rows, -1),
                keys[:, :, seen],
                values[:, :, seen],
                mask.repeat(shared, 1),
                start,
                spec,
            )
            out[:, :, begin:end] = found.view(*piece.shape)[:, :, : end - begin]

    def _seen(self, first: int, end: int, base: int, spec: AttentionSpec) -> tuple[int, int]:
        """Positions [start, stop) that queries first..end - 1 see: whole segments, whole blocks."""
        low = 0 if spec.window is None else max(0, first + 1 - spec.window)
        return max(base, low // SEGMENT * SEGMENT), -(-end // self.block_size) * self.block_size


def _mask(first: int, count: int, start: int, stop: int, window: int | None) -> torch.Tensor:
    """[count, keys] of 0 and -inf: queries from first on over keys start..stop - 1."""
    at = torch.arange(first, first + count)[:, None]
    seen = torch.arange(start, stop)
    hidden = seen > at
    if window is not None:
        hidden |= seen <= at - window
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def _padded(q: torch.Tensor) -> torch.Tensor:
    """[a, b, n, d] with n filled up to whole tiles."""
    missing = -q.shape[2] % _tile()
    return F.pad(q, (0, 0, 0, missing)) if missing else q


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
    spec: AttentionSpec,
) -> torch.Tensor:
    """The definition, by batched products, over scaled q [a, b, n, d].

    Keys and values are [a, b, keys, d] from position start on, the same for all n.
    """
    shape = q.shape
    keys, values = k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.bmm(q.reshape(-1, *shape[2:]), keys.transpose(1, 2))
    if spec.soft_cap is not None:
        scores.div_(spec.soft_cap).tanh_().mul_(spec.soft_cap)
    if mask is not None:
        scores.view(*shape[:-1], -1).add_(mask)
    return _weighted(scores.softmax(-1), values, start).view(shape)


def _weighted(weights: torch.Tensor, values: torch.Tensor, start: int) -> torch.Tensor:
    """weights @ values, a segment of positions after the other."""
    size = SEGMENT - start % SEGMENT
    out = torch.bmm(weights[:, :, :size], values[:, :size])
    for at in range(size, values.shape[1], SEGMENT):
        out.baddbmm_(weights[:, :, at : at + SEGMENT], values[:, at : at + SEGMENT])
    return out


@cache
def _tile() -> int:
    """Queries at a time, the fewest whose products give them the bits that more queries get."""
    steps = torch.linspace(-3, 5, 2 * SEGMENT * 64).sin()
    keys = steps.view(2, SEGMENT, 64)
    row = steps[:64] * 3
    weights = keys[0, :, 0].exp()

    def steady(tile: int) -> bool:
        for count in (tile, 2 * tile, 5 * tile, _ROWS):
            for batch in (1, 2):
                queries = row.expand(batch, count, -1).contiguous()
                shares = weights.expand(batch, count, -1).contiguous()
                scores = torch.bmm(queries, keys[:batch].transpose(1, 2))
                sums = torch.bmm(shares, keys[:batch])
                if not bool((scores == expected).all() & (sums == summed).all()):
                    return False
        return True

    with torch.inference_mode():
        expected = torch.bmm(row.expand(1, _ROWS, -1).contiguous(), keys[:1].transpose(1, 2))[0, 0]
        summed = torch.bmm(weights.expand(1, _ROWS, -1).contiguous(), keys[:1])[0, 0]
        return next((tile for tile in _TILES if steady(tile)), _TILES[-1])
