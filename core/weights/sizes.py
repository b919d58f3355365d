"""Sizes: what a checkpoint's tensors will take in memory, before any of them is read."""

from __future__ import annotations

from pathlib import Path

import torch

from ..contracts.quant import QuantMethod
from .stream import checkpoint_files, sizes_in_file

__all__ = ("held_bytes",)


def held_bytes(folder: Path, method: QuantMethod, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes that the weights will take at least.

    Args:
        folder: of the checkpoint.
        method: that they are stored by, or quantized by on their way.
        dtype: of activations, which other weights are held in at most.
        device: of the weights.

    Raises:
        CheckpointError: for missing, truncated or malformed files, naming them.
    """
    files, _ = checkpoint_files(folder)
    growth: dict[str, float] = {}
    total = 0.0
    for path in files:
        for name, (count, bits) in sizes_in_file(path).items():
            module = name.rpartition(".")[0]
            if method.covers(module):
                if module not in growth:
                    growth[module] = method.growth(module, dtype, device)
                total += count * bits / 8 * growth[module]
            else:
                total += count * min(bits / 8, dtype.itemsize)
    return int(total)
