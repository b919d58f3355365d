"""The stream: a checkpoint's tensors, one mapped safetensors file after another.

A file is mapped, not read, and unmapped before the next one, so that host memory holds at most one
shard's pages. Nothing of a file is trusted: names stay inside the folder and sizes are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError

__all__ = (
    "Progress",
    "checkpoint_files",
    "names_in_file",
    "read_file",
    "sizes_in_file",
    "stream_tensors",
    "tensor_names",
)

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total)."""

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_INDEX_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 64 * 2**20


def stream_tensors(
    folder: Path, progress: Progress | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint with its name, on the CPU.

    A tensor is valid until the next one is asked for: it may be a view of the mapped file.

    Args:
        folder: holds model.safetensors, or shards and model.safetensors.index.json.
        progress: told after every tensor.

    Raises:
        CheckpointError: for missing, truncated or malformed files, naming them.
    """
    files, indexed = checkpoint_files(folder)
    sizes = [path.stat().st_size for path in files]
    total, before = sum(sizes), 0
    seen: set[str] = set()
    for path, size in zip(files, sizes, strict=True):
        done = before
        for name, tensor in read_file(path):
            if name in seen:
                raise CheckpointError(f"{name} is in {path.name} and in another shard as well")
            seen.add(name)
            yield name, tensor
            done += tensor.numel() * tensor.element_size()
            if progress is not None:
                progress(min(done, total), total)
        before += size
    if progress is not None:
        progress(total, total)
    absent = sorted(indexed - seen)
    if absent:
        raise CheckpointError(
            f"{folder / _INDEX} lists {absent[0]}{_more(absent)}, which no shard holds"
        )


def tensor_names(folder: Path) -> set[str]:
    """The names that ``stream_tensors`` will give.

    Raises:
        CheckpointError: for missing, truncated or malformed files, naming them.
    """
    files, indexed = checkpoint_files(folder)
    return indexed.union(*(names_in_file(path) for path in files))


def checkpoint_files(folder: Path) -> tuple[list[Path], set[str]]:
    """A checkpoint's files in order, and the tensor names that an index promises.

    Raises:
        CheckpointError: for missing files or a malformed index, naming them.
    """
    index = folder / _INDEX
    if index.is_file():
        shards = _weight_map(index)
        files = [_inside(folder, name) for name in sorted(set(shards.values()))]
        return files, set(shards)
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE], set()
    named = sorted(folder.glob("*.safetensors"))
    for path in named:
        if path.is_symlink() and not path.exists():
            raise CheckpointError(
                f"{path} leads to {path.readlink()}, which is not there; fetch the model again"
            )
    found = [path for path in named if path.is_file()]
    if len(found) == 1:
        return found, set()
    if found:
        raise CheckpointError(
            f"{folder} holds {len(found)} safetensors files and no {_INDEX} that says which to read"
        )
    raise CheckpointError(
        f"{folder} holds no safetensors; convert other formats with transformers' save_pretrained"
    )


def _weight_map(index: Path) -> dict[str, str]:
    class Index(msgspec.Struct):
        weight_map: dict[str, str]

    size = index.stat().st_size
    if size > _MAX_INDEX_BYTES:
        raise CheckpointError(f"{index} has {size} bytes; at most {_MAX_INDEX_BYTES} are read")
    try:
        return msgspec.json.decode(index.read_bytes(), type=Index).weight_map
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a safetensors index ({error})") from error


def _inside(folder: Path, name: str) -> Path:
    """The shard of that name, which must be a plain file name."""
    plain = name == Path(name).name and "\\" not in name and name.endswith(".safetensors")
    if not plain or "\0" in name:
        raise CheckpointError(
            f"{folder / _INDEX} names the shard {name!r}; a shard is a .safetensors file beside it"
        )
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {_INDEX} names it, so fetch the model again")
    return path


def read_file(
    path: Path, wanted: Iterable[str] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of one mapped file.

    Args:
        path: of the file.
        wanted: names; None for every tensor.

    Raises:
        CheckpointError: for a truncated or malformed file, naming it.
    """
    with _opened(path) as file:
        names: Any = file.keys() if wanted is None else wanted
        for name in names:
            yield name, file.get_tensor(name)


def names_in_file(path: Path) -> list[str]:
    """Names of one file's tensors.

    Raises:
        CheckpointError: for a truncated or malformed file, naming it.
    """
    with _opened(path) as file:
        return list(file.keys())


class _Entry(msgspec.Struct):
    """What a header says of a tensor."""

    dtype: str
    shape: list[int]


def sizes_in_file(path: Path) -> dict[str, tuple[int, int]]:
    """Entries of each of one file's tensors, and bits of an entry.

    The header alone is read: a file larger than the machine's memory may not even be mapped.

    Raises:
        CheckpointError: for a truncated or malformed file, naming it.
    """
    try:
        length = _header_bytes(path, path.stat().st_size)
        with path.open("rb") as file:
            header = file.read(8 + length)[8:]
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        found = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in entries.items()}
    except (msgspec.DecodeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); fetch it again"
        ) from error
    return {name: (math.prod(entry.shape), _bits(entry.dtype)) for name, entry in found.items()}


def _bits(dtype: str) -> int:
    """Of an entry, by the format's names: F32, BF16, F8_E4M3, I64, BOOL."""
    width = re.search(r"\d+", dtype)
    return int(width[0]) if width else 8


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        _header_bytes(path, path.stat().st_size)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); fetch it again"
        ) from error


def _header_bytes(path: Path, size: int) -> int:
    """The header's length, which must be sane before anybody allocates it."""
    with path.open("rb") as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise CheckpointError(f"{path} is truncated at {size} bytes; fetch it again")
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} has a header of {length} bytes; at most {_MAX_HEADER_BYTES} are read"
        )
    return length


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
