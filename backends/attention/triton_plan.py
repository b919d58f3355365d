"""What a step of paged attention does on the device: parts of decode rows, tiles of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...core.contracts.attention import AttentionBatch, AttentionSpec
from ..kernels.launch import launch
from ..kernels.paged_decode import PART_FIELDS, plan_parts
from ..kernels.paged_shared import find_shared
from .triton_dense import DenseRow, dense_rows
from .triton_tiles import most_tile_rows

__all__ = (
    "SHARED_ROWS",
    "TILE_ROWS",
    "ChunkTiles",
    "DecodePlan",
    "Layout",
    "PrefillPlan",
    "SharedPlan",
    "Step",
    "chunk_tiles",
    "most_parts",
    "plan_decode",
    "plan_prefill",
    "plan_tiles",
    "rows_of_run",
    "tile_rows",
)

_FEWEST_KEYS = 64
"""Of a part, one tile: where programs would idle, merging costs less than another tile's wait."""
_MOST_KEYS = 2048
"""Of a part, while parts do not get many: longer ones leave processors idle at the end."""
_SHORT = 512
"""Rows up to so many tokens are as one for captured steps: a part of nothing ends at once."""
_RESIDENT = 3
"""Decode programs that one multiprocessor runs at a time."""
_WAVES = 4
"""Parts beyond one a row may take so many times the device's processors; the rest is imbalance."""
_TILE = 64
"""Keys that a part's size is a multiple of."""
_FEWEST_SHARED = 256
"""Keys that rows must have in common to be attended to together."""
_MOST_CUTS = 16
"""Programs that one run's shared keys are cut among, at most."""
_CHUNKS = 16
"""Chunks that a captured step has room for, if none of them fills its last tile."""
SHARED_ROWS = 64
"""Query heads of a tile over shared keys: the least that Hopper's matrix instructions take."""
TILE_ROWS = (16, 64, 128)
"""Rows that a tile of prompts may have: query heads of one key head times queries."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What layers of one plan have in common."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    capped: bool

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.num_heads // self.num_kv_heads

    @classmethod
    def of(cls, spec: AttentionSpec) -> Layout:
        """A layer's; window is 0 for none."""
        capped = spec.soft_cap is not None
        return cls(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.window or 0, capped)


class ChunkTiles(NamedTuple):
    """How the chunks of a captured step are cut.

    Attributes:
        rows: query heads times queries of a tile.
        room: tiles that there may be.
        singles: whether rows of one query are cut with them.
    """

    rows: int
    room: int
    singles: bool = False

    @classmethod
    def of(cls, num_tokens: int, layout: Layout, kv_dtype: torch.dtype) -> ChunkTiles:
        """For chunks of so many tokens together, of which not too many end in a tile of theirs."""
        rows = tile_rows(num_tokens, layout, kv_dtype)
        return cls(rows, -(-num_tokens * layout.group // rows) + _CHUNKS)


@dataclass(slots=True)
class DecodePlan:
    """Parts of the single-query rows, made by ``plan_parts``, and where they leave what they find.

    Attributes:
        parts: int32 [parts, PART_FIELDS].
        arrived: int32 [rows, kv heads], parts that ended; zero between launches.
        found: float32 [parts, heads, head_dim].
        lse: float32 [parts, heads], base 2.
        grid: of the launch.
        shared: of ``paged_shared`` before it, if rows may share prefixes.
    """

    parts: torch.Tensor
    arrived: torch.Tensor
    found: torch.Tensor
    lse: torch.Tensor
    grid: tuple[int, int]
    shared: SharedPlan | None


@dataclass(slots=True)
class SharedPlan:
    """Leading keys that runs of rows have in common, found by ``find_shared``.

    Attributes:
        keys: int32 [runs].
        found: float32 [runs, cuts, run, heads, head_dim].
        lse: float32 [runs, cuts, run, heads], base 2.
        run: rows of a run.
        cuts: programs that its shared keys are cut among.
        grid: of the launch.
    """

    keys: torch.Tensor
    found: torch.Tensor
    lse: torch.Tensor
    run: int
    cuts: int
    grid: tuple[int, int, int]


@dataclass(slots=True)
class PrefillPlan:
    """The other rows: long ones for ``attend_dense``, and tiles of the rest.

    Attributes:
        dense: the long ones.
        tiles: int32 [tiles, 2], row and first query, those with most keys first.
        rows_per_tile: query heads times queries of a tile.
        grid: of the launch over tiles; it may be empty.
    """

    dense: list[DenseRow]
    tiles: torch.Tensor
    rows_per_tile: int
    grid: tuple[int, int]


@dataclass(slots=True)
class Step:
    """A batch and its plans, one a layout; None where there are no such rows."""

    batch: AttentionBatch
    decode: list[DecodePlan] | None
    prefill: list[PrefillPlan] | None


def most_parts(rows: int, longest: int, layout: Layout, processors: int) -> int:
    """Parts that rows of up to ``longest`` tokens, rounded up to a power of two, are cut into.

    The bound of what ``plan_parts`` does, and so the size of its output.
    """
    longest = 1 << (max(longest, _SHORT) - 1).bit_length()
    one_wave, waves = _waves(layout, processors)
    # Either bound and none between: each number is another captured step.
    beyond = one_wave if rows * longest <= one_wave * _MOST_KEYS else waves
    return min(rows * -(-longest // _FEWEST_KEYS), rows + beyond)


def rows_of_run(rows: int, longest: int, layout: Layout, kv_dtype: torch.dtype) -> int:
    """Rows whose query heads of one key head fill a tile; 0 where sharing gains nothing."""
    if layout.window or longest <= _FEWEST_SHARED:
        return 0
    run = min(SHARED_ROWS, most_tile_rows(kv_dtype)) // layout.group
    return 0 if min(run, rows) < 2 else run


def plan_decode(
    batch: AttentionBatch,
    layout: Layout,
    processors: int,
    kv_dtype: torch.dtype,
    block_size: int,
) -> DecodePlan:
    """Launch ``plan_parts`` over the batch's single-query rows."""
    rows, device = batch.num_decodes, batch.lengths.device
    longest = max(batch.host_lengths[:rows])
    run = rows_of_run(rows, longest, layout, kv_dtype) if batch.shares_prefixes else 0
    shared = _plan_shared(batch, layout, processors, run, block_size) if run else None
    num_parts = most_parts(rows, longest, layout, processors)
    parts = torch.empty(num_parts, PART_FIELDS.value, dtype=torch.int32, device=device)
    arrived = torch.empty(rows, layout.num_kv_heads, dtype=torch.int32, device=device)
    heads = num_parts, layout.num_heads
    found = torch.empty(*heads, layout.head_dim, dtype=torch.float32, device=device)
    lse = torch.empty(heads, dtype=torch.float32, device=device)
    one_wave, waves = _waves(layout, processors)
    launch(
        plan_parts,
        (rows + 1,),
        parts,
        arrived,
        batch.lengths,
        None if shared is None else shared.keys,
        rows,
        num_parts,
        _FEWEST_KEYS,
        _MOST_KEYS,
        one_wave,
        waves,
        KV_HEADS=layout.num_kv_heads,
        WINDOW=layout.window,
        RUN=run,
        TILE=_TILE,
        ROWS=1024,
    )
    return DecodePlan(parts, arrived, found, lse, (layout.num_kv_heads, num_parts), shared)


def _plan_shared(
    batch: AttentionBatch, layout: Layout, processors: int, run: int, block_size: int
) -> SharedPlan:
    """Launch ``find_shared`` over runs of single-query rows."""
    rows, device = batch.num_decodes, batch.lengths.device
    runs = -(-rows // run)
    cuts = max(1, min(_MOST_CUTS, processors * _RESIDENT // (runs * layout.num_kv_heads)))
    keys = torch.empty(runs, dtype=torch.int32, device=device)
    heads = runs, cuts, run, layout.num_heads
    found = torch.empty(*heads, layout.head_dim, dtype=torch.float32, device=device)
    lse = torch.empty(heads, dtype=torch.float32, device=device)
    launch(
        find_shared,
        (runs,),
        keys,
        batch.lengths,
        batch.block_tables,
        rows,
        batch.block_tables.stride(0),
        _FEWEST_SHARED,
        RUN=run,
        ROWS=1 << (run - 1).bit_length(),
        BLOCK_SIZE=block_size,
    )
    return SharedPlan(keys, found, lse, run, cuts, (layout.num_kv_heads, runs, cuts))


def plan_prefill(
    batch: AttentionBatch,
    layout: Layout,
    kv_dtype: torch.dtype,
    *,
    alike: bool = False,
) -> PrefillPlan:
    """Cut the rows with several queries into tiles, in one copy to the device.

    Args:
        batch: of the step.
        layout: of the layers.
        kv_dtype: of the cache.
        alike: every row in tiles of one kind, so that its bits do not depend on the others.
    """
    dense: dict[int, DenseRow] = {}
    if not layout.capped and not alike:
        dense = dense_rows(
            batch,
            window=layout.window,
            head_dim=layout.head_dim,
            kv_dtype=kv_dtype,
        )
    rows = np.array(
        [row for row in range(batch.num_decodes, len(batch.query_lengths)) if row not in dense],
        dtype=np.int64,
    )
    counts = np.array(batch.query_lengths)[rows]
    lengths = np.array(batch.host_lengths)[rows]
    # Tiles that the queries fill; larger than the dtype's only for a larger group.
    longest = most_tile_rows(kv_dtype) if alike else int(counts.max(initial=0))
    rows_per_tile = tile_rows(longest, layout, kv_dtype)
    tiles = _tiles(rows, counts, lengths, rows_per_tile // layout.group)
    packed = torch.from_numpy(tiles.astype(np.int32))
    device = batch.lengths.device
    if device.type == "cuda":
        # From other memory a copy waits for the device.
        packed = packed.pin_memory()
    on_device = packed.to(device, non_blocking=True)
    grid = (layout.num_kv_heads, len(tiles))
    return PrefillPlan(list(dense.values()), on_device, rows_per_tile, grid)


def chunk_tiles(
    query_lengths: list[int],
    host_lengths: list[int],
    num_decodes: int,
    layout: Layout,
    cut: ChunkTiles,
) -> np.ndarray | None:
    """Tiles of a captured step, int64 [cut.room, 2]; None for too many."""
    first = 0 if cut.singles else num_decodes
    counts = np.array(query_lengths[first:], dtype=np.int64)
    lengths = np.array(host_lengths[first:], dtype=np.int64)
    rows = np.arange(first, len(query_lengths))
    found = _tiles(rows, counts, lengths, cut.rows // layout.group)
    tiles = np.full((cut.room, 2), -1, dtype=np.int64)
    if len(found) > len(tiles):
        return None
    tiles[: len(found)] = found
    return tiles


def plan_tiles(tiles: torch.Tensor, rows_per_tile: int, layout: Layout) -> PrefillPlan:
    """Of tiles that are on the device: int32 [tiles, 2]."""
    return PrefillPlan([], tiles, rows_per_tile, (layout.num_kv_heads, len(tiles)))


def tile_rows(longest: int, layout: Layout, kv_dtype: torch.dtype) -> int:
    """Query heads times queries of a tile, for chunks of up to so many queries."""
    needed = max(layout.group, min(longest * layout.group, most_tile_rows(kv_dtype)))
    return next(size for size in TILE_ROWS if size >= needed)


def _tiles(rows: np.ndarray, counts: np.ndarray, lengths: np.ndarray, queries: int) -> np.ndarray:
    """[tiles, 2], row and first of at most ``queries`` queries, those with most keys first."""
    tiles = -(-counts // queries)
    index = np.repeat(np.arange(len(rows)), tiles)
    first = (np.arange(len(index)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * queries
    keys = lengths[index] - counts[index] + first
    order = np.argsort(-keys, kind="stable")
    return np.stack((rows[index], first), 1)[order]


def _waves(layout: Layout, processors: int) -> tuple[int, int]:
    """Parts that run at the same time, and how many there may be beyond one a row."""
    one_wave = max(1, processors * _RESIDENT // layout.num_kv_heads)
    return one_wave, _WAVES * one_wave
