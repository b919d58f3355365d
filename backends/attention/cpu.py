"""Attention on a CPU, with torch alone.

The cache is head-major, so that a decode step gathers whole blocks straight into the batched
layout that products want, or reads a row in place when its blocks stand in a line.

A query's result does not depend on the queries beside it, on how its prompt was cut, or on what
was cached: everything is float32; keys come in whole blocks, queries in multiples of a tile for
which the products add in one order whatever their number; values are summed in segments at fixed
positions. Keys beyond a query's own add exact zeros.
"""

from __future__ import annotations

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
from .cpu_geometry import DecodeGroup, Geometry, Layout, PromptRow, Step, plan_step
from .cpu_tiles import MOST, SEGMENT, attend, tile_for
from .side_by_side import rotate, side_by_side

__all__ = ("CPUAttention",)
_Reading = tuple[
    torch.Tensor | None, int, int, torch.Tensor | None, torch.Tensor | None, torch.Tensor
]
"""How ``_read_rows`` finds keys and values."""
_Scoring = tuple[torch.Tensor | None, float, float | None, int]
"""Mask, scale, cap and tile of ``attend``."""


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
        layouts = [_layout(spec) for spec in layers]
        self._layouts = list(dict.fromkeys(layouts))
        self._layout_of = [self._layouts.index(layout) for layout in layouts]
        self._caches: list[_Cache] = []
        self._num_blocks = 0
        # What blocks are gathered into, and what they are as float32: memory that is already there
        # costs no page faults.
        self._gathered = torch.empty(0, dtype=kv_dtype)
        self._floats = torch.empty(0)

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
        cache, spec = self._caches[layer], self.layers[layer]
        if prepared.fresh is not None:
            cache.blocks.index_fill_(2, prepared.fresh, 0)
        cos, sin = (None, None) if rotation is None else rotation.angles()
        qkv = side_by_side(q, k, v, spec)
        geometry = prepared.geometries[self._layout_of[layer]]
        if geometry.alone:
            (group,) = geometry.groups
            written = qkv, cos, sin, cache.slots, prepared.write_slots
            return _layer(*written, self._reading(cache, group), _scoring(group.mask, spec))
        _write(qkv, cos, sin, cache.slots, prepared.write_slots)
        return self._mixed(qkv[:, : spec.num_heads], cache, geometry, spec)

    def _mixed(
        self, q: torch.Tensor, cache: _Cache, geometry: Geometry, spec: AttentionSpec
    ) -> torch.Tensor:
        """Several groups, prompts, or both: [T, heads, head_dim] -> [T, heads * head_dim]."""
        out = q.new_empty(len(q), spec.num_heads * spec.head_dim)
        for group in geometry.groups:
            read, scoring = self._reading(cache, group), _scoring(group.mask, spec)
            out[group.rows] = _decode(q[group.rows], cache.slots, read, scoring)
        if geometry.prompts:
            found = q.new_empty(q.shape, dtype=torch.float32)
            for prompt in geometry.prompts:
                self._prompt(q, cache, prompt, spec, found)
                rows = slice(prompt.begin, prompt.end)
                out[rows] = found[rows].flatten(1)
        return out

    def _reading(self, cache: _Cache, row: DecodeGroup | PromptRow) -> _Reading:
        if row.span is not None:
            first, count = row.span
            self._reserve(cache.slots.shape[:2].numel() * count * cache.slots.shape[3])
            return None, first, count, None, None, self._floats
        if row.index is None:
            raise RuntimeError("a row with nothing to read")
        size = row.index.numel() * cache.rows.shape[1]
        self._reserve(size)
        if self._gathered.numel() < size:
            self._gathered = torch.empty(size, dtype=self.kv_dtype)
        return row.index, 0, 0, cache.rows, self._gathered, self._floats

    def _reserve(self, size: int) -> None:
        if self.kv_dtype is not torch.float32 and self._floats.numel() < size:
            self._floats = torch.empty(size)

    def _prompt(
        self,
        q: torch.Tensor,
        cache: _Cache,
        prompt: PromptRow,
        spec: AttentionSpec,
        out: torch.Tensor,
    ) -> None:
        """Several queries of one row, into their place in out [T, heads, head_dim]."""
        read = _read(cache.slots, self._reading(cache, prompt))
        # A product of so many queries wants a whole segment of keys.
        keys, values = F.pad(read, (0, 0, 0, -read.shape[2] % SEGMENT)).unbind(0)
        # [T, heads, d] -> [kv heads, heads of each, T, d]
        grouped = (len(q), spec.num_kv_heads, -1, spec.head_dim)
        q, out = q.view(grouped).permute(1, 2, 0, 3), out.view(grouped).permute(1, 2, 0, 3)
        shared, tile = q.shape[1], tile_for(spec.head_dim).queries
        step = max(1, MOST // shared)
        for begin in range(prompt.begin, prompt.end, step):
            end = min(begin + step, prompt.end)
            first = prompt.first + begin - prompt.begin
            start, stop = self._seen(first, first + end - begin, prompt.base, spec)
            seen = slice(start - prompt.base, stop - prompt.base)
            piece = q[:, :, begin:end]
            mask = _mask(first, end - begin, start, stop, spec.window)
            found = attend(
                piece.float().flatten(1, 2),
                keys[:, seen],
                values[:, seen],
                mask.repeat(1, shared, 1),
                start,
                spec.scale,
                spec.soft_cap,
                tile,
            )
            out[:, :, begin:end] = found.view(piece.shape)

    def _seen(self, first: int, end: int, base: int, spec: AttentionSpec) -> tuple[int, int]:
        """Positions [start, stop) with those that queries first..end - 1 see: a segment or more."""
        low = 0 if spec.window is None else max(0, first + 1 - spec.window)
        start = max(base, low // SEGMENT * SEGMENT)
        return start, max(start + SEGMENT, -(-end // self.block_size) * self.block_size)


def _layout(spec: AttentionSpec) -> Layout:
    tile = tile_for(spec.head_dim)
    queries = -(-(spec.num_heads // spec.num_kv_heads) // tile.queries) * tile.queries
    return Layout(spec.window, spec.num_kv_heads, spec.head_dim, max(tile.keys, 2 * queries))


def _scoring(mask: torch.Tensor | None, spec: AttentionSpec) -> _Scoring:
    return mask, spec.scale, spec.soft_cap, tile_for(spec.head_dim).queries


def _mask(first: int, count: int, start: int, stop: int, window: int | None) -> torch.Tensor:
    """[1, count, keys] of 0 and -inf: queries from first on over keys start..stop - 1."""
    at = torch.arange(first, first + count)[:, None]
    seen = torch.arange(start, stop)
    hidden = seen > at
    if window is not None:
        hidden |= seen <= at - window
    return torch.zeros(1, *hidden.shape).masked_fill_(hidden, float("-inf"))


def _write_rotated(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    slots: torch.Tensor,
    write_slots: torch.Tensor,
) -> None:
    """Rotate queries and keys of [T, heads + 2 * kv heads, d] in place; keep keys and values."""
    kv_heads, width = slots.shape[1], slots.shape[3]
    rotate(qkv, kv_heads, cos, sin)
    kept = qkv[:, qkv.shape[1] - 2 * kv_heads :].view(-1, 2, kv_heads, width).permute(1, 2, 0, 3)
    slots.index_copy_(2, write_slots, kept.to(slots.dtype))


def _read_rows(
    slots: torch.Tensor,
    reading: _Reading,
) -> torch.Tensor:
    """Keys and values, float32 [2, rows * kv heads, positions, d], till the next call."""
    index, first, count, rows, gathered, floats = reading
    if index is None or rows is None or gathered is None:
        found = slots.narrow(2, first, count)
    else:
        pieces, width = index.numel(), rows.shape[1]
        out = gathered[: pieces * width].view(pieces, width)
        torch.index_select(rows, 0, index.flatten(), out=out)
        found = out.view(2, index.shape[1], -1, slots.shape[3])
    if found.dtype == torch.float32:
        return found
    return floats[: found.numel()].view(found.shape).copy_(found)


def _attend_singly(
    q: torch.Tensor,
    slots: torch.Tensor,
    reading: _Reading,
    scoring: _Scoring,
) -> torch.Tensor:
    """One query a row, [B, heads, d] -> [B, heads * d]."""
    keys, values = _read(slots, reading).unbind(0)
    mask, scale, soft_cap, tile = scoring
    batch, kv_heads = q.shape[0], slots.shape[1]
    grouped = q.float().reshape(batch * kv_heads, -1, q.shape[2])
    found = attend(grouped, keys, values, mask, 0, scale, soft_cap, tile)
    return found.to(q.dtype).reshape(batch, -1)


def _layer_singly(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    slots: torch.Tensor,
    write_slots: torch.Tensor,
    reading: _Reading,
    scoring: _Scoring,
) -> torch.Tensor:
    """A layer in which every row has one query, in one group: [B, heads * d]."""
    _write(qkv, cos, sin, slots, write_slots)
    q = qkv[:, : qkv.shape[1] - 2 * slots.shape[1]]
    return _decode(q, slots, reading, scoring)


_write = scripted(_write_rotated)
_read = scripted(_read_rows)
_decode = scripted(_attend_singly)
_layer = scripted(_layer_singly)
