"""A checkpoint's tensors by name, a few at a time, for what never holds a whole model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import CheckpointError
from .stream import checkpoint_files, names_in_file, read_file

__all__ = ("CheckpointParts",)


class CheckpointParts:
    """The names in a checkpoint's files, and their tensors when asked for.

    Args:
        folder: holds model.safetensors, or shards and model.safetensors.index.json.

    Raises:
        CheckpointError: for missing, truncated or malformed files, naming them.
    """

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Path] = {}
        files, _ = checkpoint_files(folder)
        for path in files:
            for name in names_in_file(path):
                if name in self._where:
                    raise CheckpointError(f"{name} is in {path.name} and in another shard as well")
                self._where[name] = path

    def names(self) -> list[str]:
        """Of every tensor, sorted."""
        return sorted(self._where)

    def read(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors whose names begin so, on the CPU, file by file.

        A tensor is valid until the next one is asked for: it may be a view of the mapped file.

        Raises:
            CheckpointError: for a file that changed since, naming it.
        """
        wanted: dict[Path, list[str]] = {}
        for name in self.names():
            if name.startswith(prefixes):
                wanted.setdefault(self._where[name], []).append(name)
        for path, names in sorted(wanted.items()):
            yield from read_file(path, names)
