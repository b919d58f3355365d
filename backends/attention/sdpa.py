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

__all__ = ("SDPA",)


@dataclass(slots=True)
class _Group:
    """Rows that attend in one call, each of ``queries`` tokens of the step from ``begin`` on.

    Attributes:
        begin: first token.
        end: one past the last.
        rows: how many.
        slots: int64 [rows * positions], of the keys in the cache.
        hidden: bool [rows, 1, queries, positions], keys that a query does not see; None for none.
    """

    begin: int
    end: int
    rows: int
    slots: torch.Tensor
    hidden: torch.Tensor | None


@dataclass(slots=True)
class _Step:
    write_slots: torch.Tensor
    groups: list[_Group]


class SDPA(AttentionBackend):
    """See AttentionBackend. A layer's keys, and values, are [slots, kv heads, head_dim]."""

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
        self._caches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._windows = {spec.window for spec in layers}

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        self._caches.clear()
        for spec in self.layers:
            shape = (2, num_blocks * self.block_size, spec.num_kv_heads, spec.head_dim)
            keys, values = torch.zeros(shape, dtype=self.kv_dtype).unbind(0)
            self._caches.append((keys, values))

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
        if rotation is not None:
            rotation.apply(q, k)
        spec, (keys, values) = self.layers[layer], self._caches[layer]
        step = prepared[spec.window]
        keys.index_copy_(0, step.write_slots, k.to(self.kv_dtype))
        values.index_copy_(0, step.write_slots, v.to(self.kv_dtype))
        found = [self._attend(q, keys, values, group, spec) for group in step.groups]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        group: _Group,
        spec: AttentionSpec,
    ) -> torch.Tensor:
        seen = (group.rows, -1, spec.num_kv_heads, spec.head_dim)
        out = F.scaled_dot_product_attention(
            q[group.begin : group.end].view(group.rows, -1, *q.shape[1:]).transpose(1, 2),
            keys[group.slots].view(seen).transpose(1, 2).to(q.dtype),
            values[group.slots].view(seen).transpose(1, 2).to(q.dtype),
            attn_mask=None if group.hidden is None else ~group.hidden,
            scale=spec.scale,
            enable_gqa=spec.num_heads != spec.num_kv_heads,
        )
        return out.transpose(1, 2).reshape(group.end - group.begin, -1)

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
        at = torch.arange(longest)
        blocks = batch.block_tables[first:last, : -(-longest // self.block_size)].long()
        slots = blocks.repeat_interleave(self.block_size, 1)[:, :longest] * self.block_size
        slots = slots + at % self.block_size
        queries = (end - begin) // (last - first)
        hidden = None
        if last - first > 1 or queries > 1 or (window is not None and longest > window):
            lengths = batch.lengths[first:last].long()
            # What is masked is read all the same, and a NaN would survive the mask.
            slots = torch.where(at < lengths[:, None], slots, slots[:, :1])
            positions = lengths[:, None] + torch.arange(-queries, 0)
            hidden = at > positions[..., None]
            if window is not None:
                hidden |= at <= positions[..., None] - window
            hidden = hidden[:, None]
        return _Group(begin, end, last - first, slots.flatten(), hidden)
