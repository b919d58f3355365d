"""Attention on a CPU, with torch alone.

The cache is head-major, so that a decode step gathers whole blocks straight into the batched
layout that products want, or reads a row in place when its blocks stand in a line. Prompts go
through torch's fused attention, over the step's own keys where nothing was cached before.
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
from .cpu_geometry import DecodeGroup, Geometry, Layout, PromptRow, Step, plan_step

__all__ = ("CPUAttention",)

_MASK_SIZE = 2**22
"""Most elements of a prompt's mask; queries are taken in pieces that keep to it."""


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
        # Measured: torch's fused attention wins a decode step only with AMX and bfloat16; without
        # AMX it is several times slower than two products.
        self._fused = kv_dtype is torch.bfloat16 and _has_amx()

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
            kv_dtype=self.kv_dtype,
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
        if q.dtype != self.kv_dtype:
            k, v, dtype = k.to(self.kv_dtype), v.to(self.kv_dtype), q.dtype
            return self.attend(layer, q.to(self.kv_dtype), k, v, prepared).to(dtype)
        cache = self._caches[layer]
        if prepared.fresh is not None:
            cache.whole.index_fill_(2, prepared.fresh, 0)
        cache.keys.index_copy_(1, prepared.write_slots, k.transpose(0, 1))
        cache.values.index_copy_(1, prepared.write_slots, v.transpose(0, 1))
        spec = self.layers[layer]
        geometry = prepared.geometries[self._layouts[layer]]
        if geometry.alone:
            return self._decode(q, cache, geometry.groups[0], spec)
        return self._mixed(q, k, v, cache, geometry, spec)

    def _mixed(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cache: _Cache,
        geometry: Geometry,
        spec: AttentionSpec,
    ) -> torch.Tensor:
        """Several groups, prompts, or both: [T, heads * head_dim]."""
        out = torch.empty(q.shape, dtype=q.dtype)
        for group in geometry.groups:
            found = self._decode(q[group.rows], cache, group, spec)
            out[group.rows] = found.view(-1, spec.num_heads, spec.head_dim)
        for prompt in geometry.prompts:
            self._prompt(q, k, v, cache, prompt, spec, out)
        return out.flatten(1)

    def _decode(
        self, q: torch.Tensor, cache: _Cache, group: DecodeGroup, spec: AttentionSpec
    ) -> torch.Tensor:
        """One query a row, [B, heads, head_dim] -> [B, heads * head_dim]."""
        count, heads = group.count, spec.num_kv_heads
        if group.span is not None:
            keys = cache.keys.narrow(1, *group.span).unsqueeze(0)
            values = cache.values.narrow(1, *group.span).unsqueeze(0)
        else:
            keys, values = self._gather(cache, group.index, count, spec)
            if group.keep is not None:
                keys, values = keys[:, :, group.keep], values[:, :, group.keep]
        q = q.view(count, heads, -1, spec.head_dim)
        if self._fused and spec.soft_cap is None:
            out = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=group.mask, scale=spec.scale
            )
        else:
            out = _products(q, keys, values, group.mask, spec)
        return out.reshape(count, spec.num_heads * spec.head_dim)

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
        k: torch.Tensor,
        v: torch.Tensor,
        cache: _Cache,
        prompt: PromptRow,
        spec: AttentionSpec,
        out: torch.Tensor,
    ) -> None:
        """Several queries of one row, into their place in out [T, heads, head_dim]."""
        begin, end = prompt.begin, prompt.end
        if prompt.span is not None:
            keys, values = cache.keys.narrow(1, *prompt.span), cache.values.narrow(1, *prompt.span)
        elif prompt.index is not None:
            gathered = self._gather(cache, prompt.index, 1, spec)
            keys, values = gathered[0][0], gathered[1][0]
        else:
            keys, values = k[begin:end].transpose(0, 1), v[begin:end].transpose(0, 1)
        # [T, heads, d] -> [kv heads, heads of each, T, d]
        grouped = (len(q), spec.num_kv_heads, -1, spec.head_dim)
        q, out = q.view(grouped).permute(1, 2, 0, 3), out.view(grouped).permute(1, 2, 0, 3)
        keys, values = keys.unsqueeze(1), values.unsqueeze(1)
        window = spec.window
        if (
            prompt.first == 0
            and spec.soft_cap is None
            and (window is None or end - begin <= window)
        ):
            out[:, :, begin:end] = _fused(q[:, :, begin:end], keys, values, None, spec)
            return
        pieces = max(1, _MASK_SIZE // keys.shape[2])
        for start in range(begin, end, pieces):
            stop = min(start + pieces, end)
            first, last = prompt.first + start - begin, prompt.first + stop - 1 - begin
            low = prompt.base if window is None else max(prompt.base, first + 1 - window)
            seen = slice(low - prompt.base, last + 1 - prompt.base)
            mask = _mask(first, last, low, window, self.kv_dtype)
            attend = _fused if spec.soft_cap is None else _products
            out[:, :, start:stop] = attend(
                q[:, :, start:stop], keys[:, :, seen], values[:, :, seen], mask, spec
            )


def _mask(first: int, last: int, low: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """[queries, keys] of 0 and -inf: queries first..last over keys low..last."""
    at = torch.arange(first, last + 1)[:, None]
    seen = torch.arange(low, last + 1)
    hidden = seen > at
    if window is not None:
        hidden |= seen <= at - window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    spec: AttentionSpec,
) -> torch.Tensor:
    """Torch's attention, [heads, group, queries, d] over [heads, 1, keys, d]; no mask is causal."""
    k, v = k.expand(-1, q.shape[1], -1, -1), v.expand(-1, q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=spec.scale
    )


def _products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    spec: AttentionSpec,
) -> torch.Tensor:
    """The definition, by batched products, over q [a, b, n, d].

    Keys and values are [a, b, keys, d], or [a, 1, keys, d] shared by b.
    """
    shape = q.shape
    batch = k.shape[0] * k.shape[1]
    keys, values = k.reshape(batch, *k.shape[2:]), v.reshape(batch, *v.shape[2:])
    scores = torch.bmm(q.reshape(batch, -1, shape[-1]), keys.transpose(1, 2)).mul_(spec.scale)
    if spec.soft_cap is not None:
        scores.div_(spec.soft_cap).tanh_().mul_(spec.soft_cap)
    if mask is not None:
        scores.view(*shape[:-1], -1).add_(mask)
    return torch.bmm(scores.softmax(-1), values).view(shape)


def _has_amx() -> bool:
    """Whether torch uses Intel's matrix tiles here."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())
