"""How products are cut into programs, and what all of them need around their kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...core.contracts.platform import Kernels

__all__ = ("Config", "output", "shared_depth")


class Config(NamedTuple):
    """How a product is cut.

    Attributes:
        form: "after", "folded", "apart" for one token, whose depth a program's warps share (see
            ``apart``), "vector" for one token (see ``eight_bit``), "dense" for weights written out
            and torch's own product, or "library" for its product of 8-bit floats.
        rows: of the weights, a tile; of either half behind a gate.
        tokens: of a tile.
        warps: a program.
        stages: tiles in flight.
        split: programs that share the depth.
        held: steps whose words a program reads before the kernel before has ended, and multiplies
            at last; of the form "after".
    """

    form: str
    rows: int = 64
    tokens: int = 16
    warps: int = 4
    stages: int = 4
    split: int = 1
    held: int = 0


def output(x: torch.Tensor, width: int, add: torch.Tensor | None) -> torch.Tensor:
    """Where a result goes: into what is added, unless that is x, which others may still read."""
    if add is None or add.data_ptr() == x.data_ptr():
        return torch.empty((x.shape[0], width), dtype=x.dtype, device=x.device)
    return add


def shared_depth(
    config: Config, grid: tuple[int, int, int], kernels: Kernels, device: torch.device, halves: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Memory for the sums of programs that share a depth, and counters of those that arrived.

    Args:
        config: of the product.
        grid: of its programs.
        kernels: the platform's.
        device: of the product.
        halves: sums a program has: two behind a gate.
    """
    if config.split == 1:
        return None, None
    tiles = grid[0] * grid[1]
    size = tiles * config.split * config.rows * config.tokens * halves
    partial = torch.empty(size, dtype=torch.float32, device=device)
    return partial, kernels.counters(device, tiles)
