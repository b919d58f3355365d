"""The folder that a job writes to: a file a layer, and what the job must be to go on with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from ...core.errors import ConfigError
from ...core.source import SMALL_FILE_PATTERNS, Source
from ...core.weights.stream import read_file
from ...core.weights.write import write_index, write_json, write_tensors
from .report import Report, Row

__all__ = ("Folder",)

_WORK = ".quantize"
_JOB = "job.json"
_WRITTEN_HERE = ("config.json", "model.safetensors.index.json", "quantization_report.json")


class Folder:
    """Files numbered 0 to layers - 1 for the layers, and one behind them for the rest.

    Args:
        path: of the folder; made when it is not there.
        layers: of the model.
    """

    def __init__(self, path: Path, layers: int) -> None:
        self.path = path
        self._work = path / _WORK
        self._files = [
            f"model-{index + 1:05}-of-{layers + 1:05}.safetensors" for index in range(layers + 1)
        ]

    def claim(self, identity: dict[str, Any]) -> None:
        """Begin, or go on with what the same job began.

        Args:
            identity: what the job depends on.

        Raises:
            ConfigError: when the folder holds something else, naming the first difference.
        """
        job = self._work / _JOB
        if job.is_file():
            begun = msgspec.json.decode(job.read_bytes(), type=dict[str, Any])
            for key in sorted(identity.keys() | begun.keys()):
                if begun.get(key) != identity.get(key):
                    raise ConfigError(
                        f"{self.path} holds part of another run, whose {key} was "
                        f"{begun.get(key)!r} and is now {identity.get(key)!r}; give another --out, "
                        "or remove it"
                    )
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"--out {self.path} is there and not an empty folder; give another")
        self._work.mkdir(parents=True)
        write_json(job, identity)

    def has(self, index: int) -> bool:
        """Whether a file is written."""
        return (self.path / self._files[index]).is_file()

    def write(self, index: int, tensors: Mapping[str, torch.Tensor], rows: list[Row]) -> None:
        """Write a file, and what is to be reported of it."""
        # The file comes last: where it is, so is the rest.
        write_json(self._rows(index), rows)
        write_tensors(self.path / self._files[index], tensors)

    def rows(self, index: int) -> list[Row]:
        """What ``write`` was given."""
        return msgspec.json.decode(self._rows(index).read_bytes(), type=list[Row])

    def tensors(self, index: int) -> Iterator[tuple[str, torch.Tensor]]:
        """A file's tensors, each valid until the next one is asked for."""
        return read_file(self.path / self._files[index])

    def finish(self, source: Source, config: dict[str, Any], report: Report) -> None:
        """Add everything else that a checkpoint has, config.json last."""
        for pattern in SMALL_FILE_PATTERNS:
            for path in sorted(source.folder.glob(pattern)):
                if path.name not in _WRITTEN_HERE:
                    shutil.copyfile(path, self.path / path.name)
        write_json(self.path / "quantization_report.json", report)
        write_index(self.path, self._files)
        write_json(self.path / "config.json", config)
        shutil.rmtree(self._work)

    def _rows(self, index: int) -> Path:
        return self._work / f"rows-{index:05}.json"
