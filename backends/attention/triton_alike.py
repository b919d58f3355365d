"""Attention in which a query's bits depend on its keys alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch

from ...core.contracts.attention import AttentionBatch
from ...core.contracts.capabilities import Capabilities
from .triton_paged import TritonPaged
from .triton_plan import (
    ChunkTiles,
    Layout,
    PrefillPlan,
    Step,
    plan_prefill,
    plan_tiles,
    tile_rows,
)
from .triton_tiles import most_tile_rows

__all__ = ("TritonAlike",)


class TritonAlike(TritonPaged):
    """``TritonPaged`` with every row, of one query or many, in tiles of one kind.

    A query then meets its keys from the first on in tiles of one size, whatever else the step holds
    and wherever its prompt was cut. What it costs: a single query fills a fraction of its tile, and
    a long row is not split.
    """

    capabilities = Capabilities(
        devices=TritonPaged.capabilities.devices,
        dtypes=TritonPaged.capabilities.dtypes,
        kv_dtypes=TritonPaged.capabilities.kv_dtypes,
        head_sizes=TritonPaged.capabilities.head_sizes,
        features=TritonPaged.capabilities.features | {"deterministic"},
    )

    def graph_key(self, num_rows: int, longest: int, *, shares_prefixes: bool = False) -> Hashable:
        """No row is cut, however long it is, and no keys are shared."""
        return ()

    def prepare(self, batch: AttentionBatch) -> Step:
        if batch.chunk_plan is not None:
            return Step(batch, None, self._captured_tiles(batch, batch.chunk_plan))
        if batch.num_decodes == len(batch.query_lengths):
            return Step(batch, None, self._single_tiles(batch))
        batch = replace(batch, num_decodes=0)
        plans = [plan_prefill(batch, layout, self.kv_dtype, alike=True) for layout in self._layouts]
        return Step(batch, None, plans)

    def _single_tiles(self, batch: AttentionBatch) -> list[PrefillPlan]:
        """A tile a row, made on the device, so that a graph can hold it."""
        rows = torch.arange(batch.num_decodes, dtype=torch.int32, device=batch.lengths.device)
        tiles = torch.stack((rows, torch.zeros_like(rows)), 1)
        return [
            plan_tiles(tiles, self._cut(batch.num_decodes, layout).rows, layout)
            for layout in self._layouts
        ]

    def _cut(self, num_tokens: int, layout: Layout) -> ChunkTiles:
        """Of one kind; a tile has a token at least."""
        rows = tile_rows(most_tile_rows(self.kv_dtype), layout, self.kv_dtype)
        return ChunkTiles(rows, num_tokens, singles=True)
