"""Attention on NVIDIA GPUs from compute capability 8.0, by Triton kernels over a paged cache."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities
from ...core.errors import ConfigError
from ..kernels.cache_write import write_cache
from ..kernels.launch import launch
from ..kernels.paged_decode import paged_decode
from ..kernels.paged_prefill import paged_prefill
from ..kernels.paged_shared import paged_shared
from .triton_dense import attend_dense
from .triton_plan import (
    SHARED_ROWS,
    TILE_ROWS,
    DecodePlan,
    Layout,
    PrefillPlan,
    Step,
    chunk_tiles,
    most_chunk_tiles,
    most_parts,
    plan_chunks,
    plan_decode,
    plan_prefill,
    rows_of_run,
)
from .triton_tiles import Tile, decode_tile, most_tile_rows, prefill_tile

__all__ = ("TritonPaged",)

_LOG2_E = math.log2(math.e)
_COMPUTE = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float8_e4m3fn: tl.float16,
}
"""KV dtype -> what products are made in; float16 holds every float8 exactly."""
_WRITE_TILE = 8
"""Heads that one program rotates and writes."""


class _Layer:
    """A layer's cache, its numbers and its kernels' constants."""

    def __init__(
        self,
        spec: AttentionSpec,
        layout: int,
        block_size: int,
        kv_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.layout = layout
        self.keys = self.values = torch.empty(0)
        scaled = kv_dtype is torch.float8_e4m3fn
        self.k_scale, self.v_scale = (spec.k_scale, spec.v_scale) if scaled else (1.0, 1.0)
        width = max(16, triton.next_power_of_2(spec.head_dim))
        group = spec.num_heads // spec.num_kv_heads
        shape = {
            "HEADS": spec.num_heads,
            "KV_HEADS": spec.num_kv_heads,
            "D": spec.head_dim,
            "WIDTH": width,
            "BLOCK_SIZE": block_size,
        }
        heads = max(16, triton.next_power_of_2(group))
        common = shape | {"COMPUTE": _COMPUTE[kv_dtype], "SOFT_CAP": spec.soft_cap is not None}
        self.write = shape | {"TILE": _WRITE_TILE}
        # Triton's interpreter, on a CPU, runs no assembly.
        single = common | {"ASM": device.type != "cpu"}
        self.decode = single | {"M": heads} | _options(decode_tile(width, kv_dtype))
        tile = prefill_tile(SHARED_ROWS, width, kv_dtype)
        self.shared = single | {"M": min(SHARED_ROWS, most_tile_rows(kv_dtype))} | _options(tile)
        self.prefill = {
            rows: common
            | {"M": rows, "WINDOW": spec.window or 0}
            | _options(prefill_tile(rows, width, kv_dtype))
            for rows in TILE_ROWS
        }

    def scales(self) -> tuple[float, float]:
        """What the kernels take as scale and soft_cap; see ``soft_capped`` and ``fold``."""
        scale, cap = self.spec.scale * self.k_scale, self.spec.soft_cap
        if cap is None:
            return scale * _LOG2_E, 0.0
        return 2 * scale * _LOG2_E / cap, cap * _LOG2_E


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
            _Layer(spec, self._layouts.index(layout), block_size, kv_dtype, device)
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
                shares_prefixes and rows_of_run(num_rows, layout, self.kv_dtype) > 0,
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
            tiles = chunk_tiles(
                query_lengths, host_lengths, num_decodes, num_tokens, layout, self.kv_dtype
            )
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
        tokens, kv_dtype = len(batch.write_slots), self.kv_dtype
        sizes = [most_chunk_tiles(tokens, layout, kv_dtype) for layout in self._layouts]
        tiles = torch.split_with_sizes(chunk_plan.view(-1, 2), sizes)
        return Step(
            batch,
            [
                plan_decode(singles, layout, self._processors, kv_dtype, self.block_size)
                for layout in self._layouts
            ],
            [
                plan_chunks(part, tokens, layout, kv_dtype)
                for part, layout in zip(tiles, self._layouts, strict=True)
            ],
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
        at, batch = self._layers[layer], prepared.batch
        if batch.chosen is not None:
            _write(at, q, k, v, batch.chosen.write_slots, rotation)
            q, k, v = (x.index_select(0, batch.chosen.tokens) for x in (q, k, v))
            rotation = None
        elif prepared.prefill is not None or batch.siblings:
            _write(at, q, k, v, batch.write_slots, rotation)
            rotation = None
        out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype, device=q.device)
        if prepared.decode is not None:
            plan = prepared.decode[at.layout]
            _decode(at, out, q, k, v, batch, plan, rotation)
        if prepared.prefill is not None:
            _prefill(at, out, q, k, v, batch, prepared.prefill[at.layout])
        return out


def _write(
    layer: _Layer,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    write_slots: torch.Tensor,
    rotation: Rotation | None,
) -> None:
    """Rotate queries and keys in place, and cache keys and values."""
    spec = layer.spec
    tiles = -(-spec.num_kv_heads // _WRITE_TILE)
    if rotation is not None:
        tiles += -(-spec.num_heads // _WRITE_TILE)
    launch(
        write_cache,
        (len(q), tiles),
        q,
        k,
        v,
        layer.keys,
        layer.values,
        write_slots,
        None if rotation is None else rotation.positions,
        None if rotation is None else rotation.table,
        0,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        1 / layer.k_scale,
        1 / layer.v_scale,
        ROTATE=rotation is not None,
        **layer.write,
    )


def _decode(
    layer: _Layer,
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    batch: AttentionBatch,
    plan: DecodePlan,
    rotation: Rotation | None,
) -> None:
    """The single-query rows, which lead."""
    scale, soft_cap = layer.scales()
    positions = None if rotation is None else rotation.positions
    table = None if rotation is None else rotation.table
    shared = plan.shared
    if shared is not None:
        launch(
            paged_shared,
            shared.grid,
            shared.found,
            shared.lse,
            q,
            layer.keys,
            layer.values,
            positions,
            table,
            batch.block_tables,
            batch.lengths,
            shared.keys,
            batch.num_decodes,
            batch.block_tables.stride(0),
            shared.cuts,
            q.stride(0),
            scale,
            soft_cap,
            layer.v_scale,
            RUN=shared.run,
            ROTATE=rotation is not None,
            **layer.shared,
        )
    launch(
        paged_decode,
        plan.grid,
        out,
        q,
        k,
        v,
        layer.keys,
        layer.values,
        batch.write_slots,
        positions,
        table,
        batch.block_tables,
        plan.parts,
        plan.arrived,
        plan.found,
        plan.lse,
        None if shared is None else shared.found,
        None if shared is None else shared.lse,
        batch.block_tables.stride(0),
        0 if shared is None else shared.cuts,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        scale,
        soft_cap,
        layer.k_scale,
        layer.v_scale,
        RUN=0 if shared is None else shared.run,
        ROTATE=rotation is not None,
        **layer.decode,
    )


def _prefill(
    layer: _Layer,
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    batch: AttentionBatch,
    plan: PrefillPlan,
) -> None:
    """The rows with several queries, which follow; q is rotated, and k and v are cached."""
    spec = layer.spec
    scale, soft_cap = layer.scales()
    for row in plan.dense:
        attend_dense(row, out, q, layer.keys, layer.values, spec.scale)
    if not plan.grid[1]:
        return
    launch(
        paged_prefill,
        plan.grid,
        out,
        q,
        layer.keys,
        layer.values,
        batch.block_tables,
        plan.tiles,
        batch.query_start,
        batch.lengths,
        batch.block_tables.stride(0),
        q.stride(0),
        scale,
        soft_cap,
        layer.v_scale,
        **layer.prefill[plan.rows_per_tile],
    )


def _options(tile: Tile) -> dict[str, Any]:
    return {"TILE": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}


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
