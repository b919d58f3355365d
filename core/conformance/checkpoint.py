"""Named checkpoints: a folder with everything that loading a model takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..contracts.checkpoint import NamedCheckpoint
from ..errors import QuireError
from ..source import open_folder
from .report import ConformanceError, require

__all__ = ("check_checkpoint",)

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_checkpoint(factory: Callable[[], NamedCheckpoint]) -> None:
    """Check a named checkpoint.

    Args:
        factory: makes one, without arguments.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    folder = factory().folder()
    require(isinstance(folder, Path), f"folder gave {type(folder).__name__}, not a Path")
    require(folder.is_dir(), f"{folder.name} is no folder")
    require(factory().folder() == folder, "two of one checkpoint name different folders")
    try:
        source = open_folder(folder)
        source.architecture()
        source.context_length()
        source.vocab_size()
        size = source.weight_bytes()
    except QuireError as error:
        raise ConformanceError(f"its files cannot be used: {error}") from error
    require(size > 0, "its folder holds no safetensors")
    found = factory().only_drafts or any((folder / name).is_file() for name in _TOKENIZERS)
    require(found, f"its folder holds no tokenizer ({', '.join(_TOKENIZERS)})")
