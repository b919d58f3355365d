"""Attention on a CPU by torch's ``scaled_dot_product_attention``: few operations a layer.

A result depends on the rows beside it in its last bits, so that this is not for models whose tokens
must be reproducible; a draft model, whose layers take less time than their operations take to be
called, is where it pays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities
from ...core.layers.scripted import scripted
from .side_by_side import rotate, side_by_side

__all__ = ("SDPA",)


@dataclass(slots=True)
class _Group:
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


@dataclass(slots=True)
class _Step:
    write_slots: torch.Tensor
    groups: list[_Group]


class SDPA(AttentionBackend):
    """See AttentionBackend. A layer's cache is [slots, 2 * kv heads, head_dim], keys first."""

    capabilities = Capabilities(
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16"}),
        kv_dtypes=frozenset({"float32", "bfloat16"}),
        features=frozenset({"sliding_window", "overlap", "speculation"}),
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
        self._caches: list[torch.Tensor] = []
        self._windows = {spec.window for spec in layers}

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        self._caches.clear()
        for spec in self.layers:
            shape = (num_blocks * self.block_size, 2 * spec.num_kv_heads, spec.head_dim)
            self._caches.append(torch.zeros(shape, dtype=self.kv_dtype))

    def prepare(self, batch: AttentionBatch) -> dict[int | None, _Step]:
        """One step for every sliding window that a layer has."""
        return {
            window: _Step(batch.write_slots, self._groups(batch, window))
            for window in self._windows
        }

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: dict[int | None, _Step],
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec, cache = self.layers[layer], self._caches[layer]
        step = prepared[spec.window]
        cos, sin = (None, None) if rotation is None else rotation.angles()
        qkv = side_by_side(q, k, v)
        if len(step.groups) == 1:
            (group,) = step.groups
            read = group.slots, group.rows, group.seen, spec.scale
            return _layer(qkv, cos, sin, cache, step.write_slots, *read)
        _write(qkv, cos, sin, cache, step.write_slots)
        found = [
            _attend(
                qkv[group.begin : group.end], cache, group.slots, group.rows, group.seen, spec.scale
            )
            for group in step.groups
        ]
        return torch.cat(found)

    def _groups(self, batch: AttentionBatch, window: int | None) -> list[_Group]:
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
        return groups

    def _group(
        self, batch: AttentionBatch, first: int, last: int, begin: int, end: int, window: int | None
    ) -> _Group:
        longest = max(batch.host_lengths[first:last])
        rows, queries = last - first, (end - begin) // (last - first)
        narrow = window is not None and longest > window
        slots, seen = _geometry(
            batch.block_tables[first:last],
            batch.lengths[first:last],
            longest,
            queries,
            self.block_size,
            rows > 1 or queries > 1 or narrow,
            window if narrow else None,
        )
        return _Group(begin, end, rows, slots, seen)


def _write_rotated(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    cache: torch.Tensor,
    write_slots: torch.Tensor,
) -> None:
    """Rotate queries and keys in place, and keep keys and values."""
    kept = cache.shape[1]
    rotate(qkv, kept // 2, cos, sin)
    cache.index_copy_(0, write_slots, qkv[:, qkv.shape[1] - kept :].to(cache.dtype))


def _attend_group(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    rows: int,
    seen: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """A group's tokens, [T, heads + 2 * kv heads, head_dim] -> [T, heads * head_dim]."""
    tokens, width, kept = qkv.shape[0], qkv.shape[2], cache.shape[1]
    heads = qkv.shape[1] - kept
    q = qkv[:, :heads].view(rows, -1, heads, width).transpose(1, 2)
    read = cache.index_select(0, slots).view(rows, -1, kept, width).transpose(1, 2).to(q.dtype)
    keys, values = read[:, : kept // 2], read[:, kept // 2 :]
    out = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=seen, scale=scale, enable_gqa=heads != kept // 2
    )
    return out.transpose(1, 2).reshape(tokens, -1)


_write = scripted(_write_rotated)
_attend = scripted(_attend_group)


def _whole_layer(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    cache: torch.Tensor,
    write_slots: torch.Tensor,
    slots: torch.Tensor,
    rows: int,
    seen: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    _write(qkv, cos, sin, cache, write_slots)
    return _attend(qkv, cache, slots, rows, seen, scale)


def _group_geometry(
    tables: torch.Tensor,
    lengths: torch.Tensor,
    longest: int,
    queries: int,
    block_size: int,
    hides: bool,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``slots`` and ``seen`` of a group of rows, whose longest has so many tokens.

    ``hides`` says whether a query may see less than all of them.
    """
    at = torch.arange(longest)
    blocks = tables[:, : (longest + block_size - 1) // block_size].long()
    within = torch.arange(block_size)
    slots = (blocks.unsqueeze(-1) * block_size + within).flatten(1)[:, :longest]
    if not hides:
        return slots.flatten(), None
    ends = lengths.long().unsqueeze(1)
    # What is masked is read all the same, and a NaN would survive the mask.
    slots = torch.where(at < ends, slots, slots[:, :1])
    positions = (ends + torch.arange(-queries, 0)).unsqueeze(-1)
    seen = at <= positions
    if window is not None:
        seen = seen & (at > positions - window)
    return slots.flatten(), seen.unsqueeze(1)


_layer = scripted(_whole_layer)
_geometry = scripted(_group_geometry)
