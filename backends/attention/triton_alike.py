"""Attention in which a query's bits depend on its keys alone."""

from __future__ import annotations

from dataclasses import replace

from ...core.contracts.attention import AttentionBatch
from ...core.contracts.capabilities import Capabilities
from .triton_paged import TritonPaged
from .triton_plan import Step, plan_prefill

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
        features=TritonPaged.capabilities.features - {"graphs", "chunk_graphs"} | {"deterministic"},
    )

    def prepare(self, batch: AttentionBatch) -> Step:
        batch = replace(batch, num_decodes=0)
        plans = [plan_prefill(batch, layout, self.kv_dtype, alike=True) for layout in self._layouts]
        return Step(batch, None, plans)
