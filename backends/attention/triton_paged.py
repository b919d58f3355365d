"""Attention on NVIDIA GPUs from compute capability 8.0, by Triton kernels over a paged cache."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import torch

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities
from ...core.errors import ConfigError
from .triton_layer import PagedLayer
from .triton_plan import (
    ChunkTiles,
    Layout,
    PrefillPlan,
    Step,
    chunk_tiles,
    most_parts,
    plan_decode,
    plan_prefill,
    plan_tiles,
    rows_of_run,
)

__all__ = ("TritonPaged",)


class TritonPaged(AttentionBackend):
    """See AttentionBackend. A layer's keys, and values, are [blocks, kv heads, block size, D].

    A step's single-query rows are one launch a layer, which rotates, writes the cache and attends;
    its other rows are two.

    Raises:
        ConfigError: where the GPU is too old for the kernels or for float8.
    """

    capabilities = Capabilities(
        devices=frozenset({"cuda"}),
        dtypes=frozenset({"float32", "bfloat16", "float16"}),
        kv_dtypes=frozenset({"float32", "bfloat16", "float16", "fp8"}),
        head_sizes=frozenset({16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256}),
        features=frozenset(
            {
                "sliding_window",
                "soft_cap",
                "graphs",
                "chunk_graphs",
                "overlap",
                "speculation",
                "chosen_tokens",
            }
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
        self._processors = _processors(device, kv_dtype)
        layouts = [Layout.of(spec) for spec in layers]
        self._layouts = list(dict.fromkeys(layouts))
        self._layers = [
            PagedLayer(spec, self._layouts.index(layout), block_size, kv_dtype, device)
            for spec, layout in zip(layers, layouts, strict=True)
        ]

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        for layer in self._layers:
            layer.keys = layer.values = torch.empty(0)
        for layer in self._layers:
            spec = layer.spec
            shape = (2, num_blocks, spec.num_kv_heads, self.block_size, spec.head_dim)
            cache = torch.zeros(shape, dtype=self.kv_dtype, device=self.device)
            layer.keys, layer.values = cache.unbind(0)

    def graph_key(self, num_rows: int, longest: int, *, shares_prefixes: bool = False) -> Hashable:
        return tuple(
            (
                most_parts(num_rows, longest, layout, self._processors),
                shares_prefixes and rows_of_run(num_rows, longest, layout, self.kv_dtype) > 0,
            )
            for layout in self._layouts
        )

    def chunk_plan(
        self,
        query_lengths: list[int],
        host_lengths: list[int],
        num_decodes: int,
        num_tokens: int,
    ) -> np.ndarray | None:
        parts = []
        for layout in self._layouts:
            cut = self._cut(num_tokens, layout)
            tiles = chunk_tiles(query_lengths, host_lengths, num_decodes, layout, cut)
            if tiles is None:
                return None
            parts.append(tiles.ravel())
        return np.concatenate(parts)

    def prepare(self, batch: AttentionBatch) -> Step:
        if batch.chunk_plan is not None:
            return self._prepare_captured(batch, batch.chunk_plan)
        decode = prefill = None
        if batch.num_decodes:
            decode = [
                plan_decode(batch, layout, self._processors, self.kv_dtype, self.block_size)
                for layout in self._layouts
            ]
        if batch.num_decodes < len(batch.query_lengths):
            prefill = [plan_prefill(batch, layout, self.kv_dtype) for layout in self._layouts]
        return Step(batch, decode, prefill)

    def _prepare_captured(self, batch: AttentionBatch, chunk_plan: torch.Tensor) -> Step:
        """Whichever rows have one query are found on the device; the others get no part."""
        counts = batch.query_start.diff()
        singles = replace(batch, lengths=torch.where(counts == 1, batch.lengths, 0))
        decode = [
            plan_decode(singles, layout, self._processors, self.kv_dtype, self.block_size)
            for layout in self._layouts
        ]
        return Step(batch, decode, self._captured_tiles(batch, chunk_plan))

    def _captured_tiles(self, batch: AttentionBatch, chunk_plan: torch.Tensor) -> list[PrefillPlan]:
        cuts = [self._cut(len(batch.write_slots), layout) for layout in self._layouts]
        tiles = torch.split_with_sizes(chunk_plan.view(-1, 2), [cut.room for cut in cuts])
        return [
            plan_tiles(part, cut.rows, layout)
            for part, cut, layout in zip(tiles, cuts, self._layouts, strict=True)
        ]

    def _cut(self, num_tokens: int, layout: Layout) -> ChunkTiles:
        """Of a step captured for so many tokens."""
        return ChunkTiles.of(num_tokens, layout, self.kv_dtype)

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: Step,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        at, batch = self._layers[layer], prepared.batch
        chosen = batch.chosen
        if chosen is not None or prepared.prefill is not None or batch.siblings:
            at.write(q, k, v, batch.all_slots, rotation)
            rotation = None
        if chosen is not None:
            q, k, v = (x.index_select(0, chosen.tokens) for x in (q, k, v))
        out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype, device=q.device)
        if prepared.decode is not None:
            plan = prepared.decode[at.layout]
            at.decode(out, q, k, v, batch, plan, rotation)
        if prepared.prefill is not None:
            at.prefill(out, q, k, v, batch, prepared.prefill[at.layout])
        return out


def _processors(device: torch.device, kv_dtype: torch.dtype) -> int:
    """Multiprocessors of the GPU, which must be new enough."""
    capability = torch.cuda.get_device_capability(device)
    needed = (8, 9) if kv_dtype is torch.float8_e4m3fn else (8, 0)
    if capability < needed:
        raise ConfigError(
            f"attention.backend triton_paged with cache.kv_dtype {str(kv_dtype)[6:]} needs compute "
            f"capability {needed[0]}.{needed[1]}, and {torch.cuda.get_device_name(device)} has "
            f"{capability[0]}.{capability[1]}; use another kv_dtype or backend"
        )
    return torch.cuda.get_device_properties(device).multi_processor_count
