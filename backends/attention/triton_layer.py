"""A layer's paged cache on an NVIDIA GPU, and the kernels that write and read it."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from ...core.contracts.attention import AttentionBatch, AttentionSpec, Rotation
from ..kernels.cache_write import write_cache
from ..kernels.launch import launch
from ..kernels.paged_decode import paged_decode
from ..kernels.paged_prefill import paged_prefill
from ..kernels.paged_shared import paged_shared
from .triton_dense import attend_dense
from .triton_plan import SHARED_ROWS, TILE_ROWS, DecodePlan, PrefillPlan
from .triton_tiles import MANY_ROWS, Tile, decode_tile, most_tile_rows, prefill_tile

__all__ = ("PagedLayer",)

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


class PagedLayer:
    """A layer's cache, its numbers and its kernels' constants.

    Attributes:
        spec: geometry.
        layout: which of the backend's layouts it has.
        keys: [blocks, kv heads, block size, head_dim], empty until the backend allocates.
        values: like keys.

    Args:
        spec: geometry.
        layout: which of the backend's layouts it has.
        block_size: tokens a block.
        kv_dtype: of the cache.
        device: of the cache.
    """

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
        self._write = shape | {"TILE": _WRITE_TILE}
        # Triton's interpreter, on a CPU, runs no assembly.
        single = common | {"ASM": device.type != "cpu"}
        self._few, self._many = (
            single | {"M": heads} | _options(decode_tile(width, kv_dtype, heads, many=many))
            for many in (False, True)
        )
        tile = prefill_tile(SHARED_ROWS, width, kv_dtype)
        self._shared = single | {"M": min(SHARED_ROWS, most_tile_rows(kv_dtype))} | _options(tile)
        self._prefill = {
            rows: common
            | {"M": rows, "WINDOW": spec.window or 0}
            | _options(prefill_tile(rows, width, kv_dtype))
            for rows in TILE_ROWS
        }

    def write(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        write_slots: torch.Tensor,
        rotation: Rotation | None,
    ) -> None:
        """Rotate queries and keys in place, and cache keys and values."""
        spec = self.spec
        tiles = -(-spec.num_kv_heads // _WRITE_TILE)
        if rotation is not None:
            tiles += -(-spec.num_heads // _WRITE_TILE)
        launch(
            write_cache,
            (len(q), tiles),
            q,
            k,
            v,
            self.keys,
            self.values,
            write_slots,
            None if rotation is None else rotation.positions,
            None if rotation is None else rotation.table,
            0,
            q.stride(0),
            k.stride(0),
            v.stride(0),
            1 / self.k_scale,
            1 / self.v_scale,
            ROTATE=rotation is not None,
            **self._write,
        )

    def decode(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        batch: AttentionBatch,
        plan: DecodePlan,
        rotation: Rotation | None,
    ) -> None:
        """The single-query rows, which lead."""
        scale, soft_cap = self._scales()
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
                self.keys,
                self.values,
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
                self.v_scale,
                RUN=shared.run,
                ROTATE=rotation is not None,
                **self._shared,
            )
        launch(
            paged_decode,
            plan.grid,
            out,
            q,
            k,
            v,
            self.keys,
            self.values,
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
            self.k_scale,
            self.v_scale,
            RUN=0 if shared is None else shared.run,
            ROTATE=rotation is not None,
            **(self._many if len(plan.arrived) >= MANY_ROWS else self._few),
        )

    def prefill(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        batch: AttentionBatch,
        plan: PrefillPlan,
    ) -> None:
        """The rows with several queries, which follow; q is rotated, and k and v are cached."""
        spec = self.spec
        scale, soft_cap = self._scales()
        for row in plan.dense:
            attend_dense(row, out, q, self.keys, self.values, spec.scale)
        if not plan.grid[1]:
            return
        launch(
            paged_prefill,
            plan.grid,
            out,
            q,
            self.keys,
            self.values,
            batch.block_tables,
            plan.tiles,
            batch.query_start,
            batch.lengths,
            batch.block_tables.stride(0),
            q.stride(0),
            scale,
            soft_cap,
            self.v_scale,
            **self._prefill[plan.rows_per_tile],
        )

    def _scales(self) -> tuple[float, float]:
        """What the kernels take as scale and soft_cap; see ``soft_capped`` and ``fold``."""
        scale, cap = self.spec.scale * self.k_scale, self.spec.soft_cap
        if cap is None:
            return scale * _LOG2_E, 0.0
        return 2 * scale * _LOG2_E / cap, cap * _LOG2_E


def _options(tile: Tile) -> dict[str, Any]:
    return {"TILE": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}
