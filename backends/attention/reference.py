"""Attention by its definition: plain torch in float32, row by row, on any device.

It is the oracle that other backends are tested against, so it shares no code with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities

__all__ = ("Reference",)

_FLOAT8_MAX = 448.0
_MAX_SCORES = 2**24
"""Most scores held at once, 64 MiB of float32; longer prompts are taken in pieces."""


@dataclass(slots=True)
class _Row:
    """One row: its queries [begin, end) of T, the position of the first, and its cache slots."""

    begin: int
    end: int
    position: int
    slots: torch.Tensor


@dataclass(slots=True)
class _Prepared:
    batch: AttentionBatch
    rows: list[_Row]


class Reference(AttentionBackend):
    """See AttentionBackend. The cache is [2, slots, kv heads, head_dim] a layer."""

    capabilities = Capabilities(
        dtypes=frozenset({"float32", "bfloat16", "float16"}),
        kv_dtypes=frozenset({"float32", "bfloat16", "float16", "fp8"}),
        features=frozenset(
            {"sliding_window", "soft_cap", "overlap", "speculation", "chosen_tokens"}
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
        self._caches: list[torch.Tensor] = []

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        self._caches.clear()
        slots = num_blocks * self.block_size
        for spec in self.layers:
            shape = (2, slots, spec.num_kv_heads, spec.head_dim)
            self._caches.append(torch.zeros(shape, dtype=self.kv_dtype, device=self.device))

    def prepare(self, batch: AttentionBatch) -> _Prepared:
        rows: list[_Row] = []
        begin = 0
        offsets = torch.arange(self.block_size, device=self.device)
        for index, (count, length) in enumerate(
            zip(batch.query_lengths, batch.host_lengths, strict=True)
        ):
            blocks = batch.block_tables[index, : -(-length // self.block_size)].long()
            slots = (blocks[:, None] * self.block_size + offsets).flatten()[:length]
            rows.append(_Row(begin, begin + count, length - count, slots))
            begin += count
        return _Prepared(batch, rows)

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: _Prepared,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        if rotation is not None:
            rotation.apply(q, k)
        spec = self.layers[layer]
        keys, values = self._caches[layer]
        k_scale, v_scale = self._scales(spec)
        batch = prepared.batch
        keys[batch.all_slots] = self._stored(k, k_scale)
        values[batch.all_slots] = self._stored(v, v_scale)
        if batch.chosen is not None:
            q = q[batch.chosen.tokens]
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for row in prepared.rows:
            row_keys = keys[row.slots].float() * k_scale
            row_values = values[row.slots].float() * v_scale
            step = max(1, _MAX_SCORES // (spec.num_heads * len(row.slots)))
            for begin in range(row.begin, row.end, step):
                end = min(begin + step, row.end)
                first = row.position + begin - row.begin
                out[begin:end] = _attend(q[begin:end], row_keys, row_values, first, spec)
        return out.flatten(1)

    def _scales(self, spec: AttentionSpec) -> tuple[float, float]:
        scaled = self.kv_dtype is torch.float8_e4m3fn
        return (spec.k_scale, spec.v_scale) if scaled else (1.0, 1.0)

    def _stored(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        if self.kv_dtype is not torch.float8_e4m3fn:
            return x.to(self.kv_dtype)
        # Beyond the greatest value torch's conversion makes NaN.
        return (x.float() / scale).clamp_(-_FLOAT8_MAX, _FLOAT8_MAX).to(self.kv_dtype)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int, spec: AttentionSpec
) -> torch.Tensor:
    """Queries [n, heads, d] at positions from ``first`` over keys and values [L, kv heads, d]."""
    group = spec.num_heads // spec.num_kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,lhd->hnl", q.float(), k) * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    at = torch.arange(first, first + len(q), device=q.device)[:, None]
    seen = torch.arange(len(k), device=q.device)[None]
    hidden = seen > at
    if spec.window is not None:
        hidden |= seen <= at - spec.window
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hnl,lhd->nhd", weights, v).to(q.dtype)
