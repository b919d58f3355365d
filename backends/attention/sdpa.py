"""Attention on a CPU by torch's ``scaled_dot_product_attention``: few operations a layer.

A result depends on the rows beside it in its last bits, so that this is not for models whose tokens
must be reproducible; a draft model, whose layers take less time than their operations take to be
called, is where it pays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities
from ...core.layers.scripted import recording, scripted
from .side_by_side import rotate, side_by_side

__all__ = ("SDPA",)


class _Group(NamedTuple):
    """Rows that attend in one call, each of as many tokens of the step.

    Attributes:
        begin: first token.
        end: one past the last.
        rows: how many.
        slots: int64 [rows * positions], of the keys in the cache.
        seen: bool [rows, 1, queries, positions], keys that a query sees; None for all.
    """

    begin: int
    end: int
    rows: int
    slots: torch.Tensor
    seen: torch.Tensor | None


class _Step(NamedTuple):
    """A step, as layers with one sliding window see it."""

    write_slots: torch.Tensor
    groups: tuple[_Group, ...]


class _Prepared(NamedTuple):
    """A step for every sliding window, and the layers' caches, which a recording must be given."""

    steps: tuple[_Step, ...]
    caches: tuple[torch.Tensor, ...]


class SDPA(AttentionBackend):
    """See AttentionBackend. A layer's cache is [slots, 2 * kv heads, head_dim], keys first."""

    capabilities = Capabilities(
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16"}),
        kv_dtypes=frozenset({"float32", "bfloat16"}),
        features=frozenset({"sliding_window", "overlap", "speculation", "recorded"}),
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
        self._caches: tuple[torch.Tensor, ...] = ()
        self._tables = torch.empty(0)
        self._slots = torch.empty(0)
        self._windows = list(dict.fromkeys(spec.window for spec in layers))

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        slots = num_blocks * self.block_size
        self._caches = tuple(
            torch.zeros(slots, 2 * spec.num_kv_heads, spec.head_dim, dtype=self.kv_dtype)
            for spec in self.layers
        )

    def prepare(self, batch: AttentionBatch) -> _Prepared:
        # Steps that follow one another while nothing is verified come with the same tables.
        if batch.block_tables is not self._tables:
            self._tables = batch.block_tables
            self._slots = _slots_of(batch.block_tables, self.block_size)
        steps = [_Step(batch.write_slots, self._groups(batch, window)) for window in self._windows]
        return _Prepared(tuple(steps), self._caches)

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: _Prepared,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec, cache = self.layers[layer], prepared.caches[layer]
        step = prepared.steps[self._windows.index(spec.window)]
        cos, sin = (None, None) if rotation is None else rotation.angles()
        heads, scale = spec.num_heads, spec.scale
        qkv = side_by_side(q, k, v, spec)
        if len(step.groups) == 1:
            (group,) = step.groups
            read = group.slots, group.rows, group.seen, scale
            whole = _whole_layer if recording() else _layer
            return whole(qkv, heads, cos, sin, cache, step.write_slots, *read)
        _write(qkv, heads, cos, sin, cache, step.write_slots)
        found = [
            _attend(
                qkv[group.begin : group.end],
                heads,
                cache,
                group.slots,
                group.rows,
                group.seen,
                scale,
            )
            for group in step.groups
        ]
        return torch.cat(found)

    def _groups(self, batch: AttentionBatch, window: int | None) -> tuple[_Group, ...]:
        """The single-query rows together, every other row by itself."""
        groups = []
        decodes = batch.num_decodes
        if decodes:
            groups.append(self._group(batch, 0, decodes, 0, decodes, window))
        begin = decodes
        for row in range(decodes, len(batch.query_lengths)):
            end = begin + batch.query_lengths[row]
            groups.append(self._group(batch, row, row + 1, begin, end, window))
            begin = end
        return tuple(groups)

    def _group(
        self, batch: AttentionBatch, first: int, last: int, begin: int, end: int, window: int | None
    ) -> _Group:
        longest = max(batch.host_lengths[first:last])
        rows, queries = last - first, (end - begin) // (last - first)
        narrow = window is not None and longest > window
        if rows == queries == 1 and not narrow:
            return _Group(begin, end, rows, self._slots[first, :longest], None)
        slots, seen = _geometry(
            self._slots[first:last, :longest],
            batch.lengths[first:last],
            queries,
            window if narrow else None,
        )
        return _Group(begin, end, rows, slots, seen)


# The functions below take sizes as numbers: in a recording each one that is asked of a tensor, and
# what is made of it, is an operation.


def _write_rotated(
    qkv: torch.Tensor,
    heads: int,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    cache: torch.Tensor,
    write_slots: torch.Tensor,
) -> None:
    """Rotate queries and keys in place, and keep keys and values."""
    kept = qkv[:, heads:]
    rotate(qkv, kept.shape[1] // 2, cos, sin)
    cache.index_copy_(0, write_slots, kept.to(cache.dtype))


def _attend_group(
    qkv: torch.Tensor,
    heads: int,
    cache: torch.Tensor,
    slots: torch.Tensor,
    rows: int,
    seen: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """A group's tokens, [T, heads + 2 * kv heads, head_dim] -> [T, heads * head_dim]."""
    tokens, width, kept = qkv.shape[0], qkv.shape[2], cache.shape[1]
    q = qkv[:, :heads].view(rows, -1, heads, width).transpose(1, 2)
    read = cache.index_select(0, slots).view(rows, -1, kept, width).transpose(1, 2).to(q.dtype)
    keys, values = read.chunk(2, 1)
    out = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=seen, scale=scale, enable_gqa=bool(heads != kept // 2)
    )
    return out.transpose(1, 2).reshape(tokens, -1)


def _whole_layer(
    qkv: torch.Tensor,
    heads: int,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    cache: torch.Tensor,
    write_slots: torch.Tensor,
    slots: torch.Tensor,
    rows: int,
    seen: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    _write_rotated(qkv, heads, cos, sin, cache, write_slots)
    return _attend_group(qkv, heads, cache, slots, rows, seen, scale)


def _slots_of(tables: torch.Tensor, block_size: int) -> torch.Tensor:
    """Where in the cache the positions of rows are, int64 [rows, positions]."""
    within = torch.arange(block_size)
    return (tables.long().unsqueeze(-1) * block_size + within).flatten(1)


def _group_geometry(
    slots: torch.Tensor, lengths: torch.Tensor, queries: int, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``slots`` and ``seen`` of a group of rows, from the slots of as many positions as the longest
    has."""
    at = torch.arange(slots.shape[1])
    ends = lengths.long().unsqueeze(1)
    # What is masked is read all the same, and a NaN would survive the mask.
    slots = torch.where(at < ends, slots, slots[:, :1])
    positions = (ends + torch.arange(-queries, 0)).unsqueeze(-1)
    seen = at <= positions
    if window is not None:
        seen = seen & (at > positions - window)
    return slots.flatten(), seen.unsqueeze(1)


_write = scripted(_write_rotated)
_attend = scripted(_attend_group)
_layer = scripted(_whole_layer)
_geometry = scripted(_group_geometry)
