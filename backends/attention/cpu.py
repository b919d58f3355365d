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
from ...core.layers.scripted import scripted
from .cpu_geometry import SEGMENT, DecodeGroup, Geometry, Layout, PromptRow, Step, plan_step

__all__ = ("CPUAttention",)

_ROWS = 128
"""Most queries, times the heads that share a key, in one product of a prompt."""
_TILES = (1, 2, 4, 8, 16)


class _Cache:
    """One layer's, [2, kv heads, blocks, block size, head_dim], and the same memory otherwise cut.

    Attributes:
        blocks: [2, kv heads, blocks, block size * head_dim].
        slots: [2, kv heads, slots, head_dim].
        rows: [2 * kv heads * blocks, block size * head_dim].
    """

    def __init__(self, whole: torch.Tensor) -> None:
        self.blocks = whole.flatten(3, 4)
        self.slots = whole.flatten(2, 3)
        self.rows = self.blocks.flatten(0, 2)


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
        layouts = [Layout(spec.window, spec.num_kv_heads, spec.head_dim) for spec in layers]
        self._layouts = list(dict.fromkeys(layouts))
        self._layout_of = [self._layouts.index(layout) for layout in layouts]
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
            self._layouts,
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
        cache, spec = self._caches[layer], self.layers[layer]
        if prepared.fresh is not None:
            cache.blocks.index_fill_(2, prepared.fresh, 0)
        cache.slots.index_copy_(2, prepared.write_slots, _stacked(k, v).to(self.kv_dtype))
        geometry = prepared.geometries[self._layout_of[layer]]
        queries = q.float()
        if geometry.alone:
            out = self._decode(queries, cache, geometry.groups[0], spec)
        else:
            out = self._mixed(queries, cache, geometry, spec)
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
        keys, values = self._read(cache, group.span, group.index)
        shared = spec.num_heads // spec.num_kv_heads
        grouped = q.view(group.count, spec.num_kv_heads, shared, spec.head_dim)
        return _decode(grouped, keys, values, group.mask, spec.scale, spec.soft_cap, _tile())

    def _read(
        self, cache: _Cache, span: tuple[int, int] | None, index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, float32 [rows * kv heads, positions, head_dim], till the next call."""
        if span is not None:
            keys, values = cache.slots.narrow(2, *span).unbind(0)
        else:
            keys, values = self._gather(cache, index)
        return keys.float(), values.float()

    def _gather(
        self, cache: _Cache, index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [rows * kv heads, positions, head_dim], valid until the next call."""
        if index is None:
            raise RuntimeError("a row with nothing to gather")
        count, width = index.numel(), cache.rows.shape[1]
        if self._workspace.numel() < count * width:
            self._workspace = torch.empty(count * width, dtype=self.kv_dtype)
        out = self._workspace[: count * width].view(count, width)
        torch.index_select(cache.rows, 0, index.flatten(), out=out)
        keys, values = out.view(2, index.shape[1], -1, cache.slots.shape[-1]).unbind(0)
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
        keys, values = self._read(cache, prompt.span, prompt.index)
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
            piece = _padded(q[:, :, begin:end], tile)
            mask = _mask(first, piece.shape[2], start, stop, spec.window)
            found = _attend(
                piece.flatten(1, 2),
                keys[:, seen],
                values[:, seen],
                mask.repeat(shared, 1),
                start,
                spec.scale,
                spec.soft_cap,
            )
            out[:, :, begin:end] = found.view(piece.shape)[:, :, : end - begin]

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


def _stacked(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Keys and values [T, kv heads, head_dim] as [2, kv heads, T, head_dim]."""
    tokens, heads, width = k.shape
    token, *inner = k.stride()
    if v.data_ptr() == k.data_ptr() + heads * width * k.element_size() and inner == [width, 1]:
        # They stand side by side in one product.
        return k.as_strided((2, heads, tokens, width), (heads * width, width, token, 1))
    return torch.stack((k, v)).transpose(1, 2)


def _padded(q: torch.Tensor, tile: int) -> torch.Tensor:
    """[..., n, d], contiguous, with n filled up to whole tiles."""
    missing = -q.shape[-2] % tile
    return F.pad(q, (0, 0, 0, missing)) if missing else q.contiguous()


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
    scale: float,
    soft_cap: float | None,
) -> torch.Tensor:
    """The definition, by batched products, over q [b, n, d], n whole tiles.

    Keys and values are [b, keys, d] from position start on, the same for all n; the mask is
    [b or 1, n or 1, keys].
    """
    if soft_cap is None:
        scores = _scores(q, keys, mask, scale)
    else:
        scores = _scores(q, keys, None, scale / soft_cap).tanh_().mul_(soft_cap)
        if mask is not None:
            scores.add_(mask)
    return _weighted(scores.softmax(-1), values, start)


def _attend_once(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    soft_cap: float | None,
    tile: int,
) -> torch.Tensor:
    """One query a row, [B, kv heads, heads of each, d] -> [B, heads * d]."""
    count, shared = q.shape[0], q.shape[2]
    # Padding that repeats the query costs less than zeros.
    padded = q.expand(-1, -1, tile, -1).contiguous() if shared == 1 else _padded(q, tile)
    found = _attend(padded.flatten(0, 1), keys, values, mask, 0, scale, soft_cap)
    return found[:, :shared].reshape(count, -1)


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


_decode = scripted(_attend_once)


@cache
def _tile() -> int:
    """Queries at a time, the fewest whose products give them the bits that more queries get."""
    steps = torch.linspace(-3, 5, SEGMENT * 64).sin()
    keys = steps.view(1, SEGMENT, 64)
    row = steps[:64] * 3
    weights = keys[0, :, 0].exp()
    mask = steps[:SEGMENT].view(1, 1, -1)

    def products(batch: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        several = keys.expand(batch, -1, -1).contiguous()
        queries = row.expand(batch, count, -1).contiguous()
        shares = weights.expand(batch, count, -1).contiguous()
        return _scores(queries, several, mask, 0.3), torch.bmm(shares, several)

    def steady(tile: int) -> bool:
        return all(
            bool((scores == expected[0]).all() & (sums == expected[1]).all())
            for count in (tile, 2 * tile, 5 * tile, _ROWS)
            for batch in (1, 2, 16)
            for scores, sums in (products(batch, count),)
        )

    with torch.inference_mode():
        expected = [product[0, 0] for product in products(1, _ROWS)]
        return next((tile for tile in _TILES if steady(tile)), _TILES[-1])
