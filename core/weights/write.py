"""Writing: safetensors that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from .stream import names_in_file

__all__ = ("write_index", "write_json", "write_tensors")

_INDEX = "model.safetensors.index.json"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file under another name, and rename it once it is on the disk.

    Args:
        path: of the file.
        tensors: by name, on any device.

    Raises:
        OSError: when the disk is full or not writable.
    """
    held = {name: tensor.cpu().contiguous() for name, tensor in sorted(tensors.items())}
    unfinished = path.with_name(path.name + ".part")
    save_file(held, unfinished, metadata={"format": "pt"})
    # The library makes files that only their owner may read.
    unfinished.chmod(path.parent.stat().st_mode & 0o666)
    _move(unfinished, path)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file likewise."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    _move(unfinished, path)


def write_index(folder: Path, files: list[str]) -> None:
    """Write model.safetensors.index.json.

    Args:
        folder: of the checkpoint.
        files: names of its safetensors.
    """
    where = {name: file for file in files for name in names_in_file(folder / file)}
    total = sum((folder / file).stat().st_size for file in files)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_json(folder / _INDEX, index)


def _move(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)
