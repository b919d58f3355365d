"""Named checkpoints: a model that a plugin ships, usable wherever a model can be named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

__all__ = ("CONTRACT_VERSION", "NamedCheckpoint")

CONTRACT_VERSION = 1


class NamedCheckpoint(ABC):
    """Knows where the files are."""

    only_drafts: ClassVar[bool] = False
    """Whether it is a head for another model, whose tokenizer it shares."""

    @abstractmethod
    def folder(self) -> Path:
        """A folder with config.json, safetensors and, but for a head, the tokenizer's files."""
