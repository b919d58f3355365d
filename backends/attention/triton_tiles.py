"""Shapes of the attention kernels' tiles: keys of a tile, warps, and stages of its pipeline."""

from __future__ import annotations

import msgspec
import torch

__all__ = ("MANY_ROWS", "Tile", "decode_tile", "most_tile_rows", "prefill_tile")

MANY_ROWS = 16
"""Single queries from which on programs of one warp hide how much later each of them begins."""


class Tile(msgspec.Struct, frozen=True):
    """How a kernel is compiled.

    Attributes:
        keys: taken in one step of its loop.
        warps: of a program.
        stages: loads under way at once.
    """

    keys: int
    warps: int
    stages: int


def most_tile_rows(kv_dtype: torch.dtype) -> int:
    """Query heads of a prompt's tile; products of float32 take three passes and many registers."""
    return 16 if kv_dtype is torch.float32 else 128


def decode_tile(width: int, kv_dtype: torch.dtype, heads: int, *, many: bool) -> Tile:
    """For ``heads`` query heads of ``width`` elements, both powers of two; see ``MANY_ROWS``."""
    if kv_dtype is torch.float32:
        return Tile(32, 4, 2)
    if many and kv_dtype.itemsize == 2 and width == 128 and heads <= 16:
        return Tile(32, 1, 4)
    if kv_dtype.itemsize == 1 and width <= 128:
        return Tile(64, 2, 4)
    return Tile(64, 4, 2) if width <= 128 else Tile(32, 4, 3)


def prefill_tile(rows: int, width: int, kv_dtype: torch.dtype) -> Tile:
    """For tiles of ``rows`` query heads."""
    warps = 8 if rows > 64 else 4
    if kv_dtype is torch.float32:
        return Tile(32, warps, 2)
    if kv_dtype.itemsize == 1 and width <= 128 and rows > 64:
        return Tile(128, warps, 2)
    return Tile(64, warps, 3) if width <= 128 else Tile(32, warps, 2)
