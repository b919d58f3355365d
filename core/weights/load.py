"""Loading: from a source, or from thin air, into a module."""

from __future__ import annotations

import torch

from ..contracts.model import CheckpointModule
from ..source import Source
from .bind import bind
from .stream import Progress, stream_tensors, tensor_names

__all__ = ("dummy_weights", "load_weights")


def load_weights(
    source: Source, module: CheckpointModule, progress: Progress | None = None
) -> None:
    """Fill an architecture, or another module, from its checkpoint.

    Args:
        source: of the files.
        module: as built, without weights.
        progress: told (bytes done, bytes in total) after every tensor.

    Raises:
        CheckpointError: for files that are missing or broken, and tensors that are missing, left
            over or of the wrong shape.
    """
    present = tensor_names(source.folder)
    stream = stream_tensors(source.folder, progress)
    with torch.inference_mode():
        bind(stream, module.holders(), module.ignores, present)


def dummy_weights(module: CheckpointModule, device: torch.device, seed: int) -> None:
    """Make weights up on their own device: small normal values, and ones for norms.

    Args:
        module: as built, without weights.
        device: of the weights.
        seed: the same one makes the same weights on the same kind of device.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.inference_mode():
        for holder in module.holders():
            holder.make_up(generator)
            holder.finish()
