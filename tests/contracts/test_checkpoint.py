"""Named checkpoints: those that ship conform, and broken ones are caught."""

import shutil
from pathlib import Path

import pytest

from quire.core.contracts.checkpoint import NamedCheckpoint
from quire.core.registry import Registry
from quire.plugins.demo import Demo
from quire.testing import ConformanceError, check_checkpoint


@pytest.mark.parametrize("name", Registry().names("checkpoint"))
def test_every_registered_checkpoint_conforms(name: str) -> None:
    check_checkpoint(Registry().get("checkpoint", name))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("*.safetensors", "safetensors"),
        ("tokenizer*", "no tokenizer"),
        ("*", "is no folder|no config.json"),
    ],
)
def test_a_folder_that_lacks_something_is_caught(missing: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(Demo().folder(), folder, ignore=shutil.ignore_patterns(missing))

    class Broken(NamedCheckpoint):
        def folder(self) -> Path:
            return folder

    with pytest.raises(ConformanceError, match=words):
        check_checkpoint(Broken)


def test_a_folder_that_wanders_is_caught(tmp_path: Path) -> None:
    class Wandering(Demo):
        count = 0

        def folder(self) -> Path:
            type(self).count += 1
            copy = tmp_path / str(self.count)
            shutil.copytree(super().folder(), copy)
            return copy

    with pytest.raises(ConformanceError, match="different folders"):
        check_checkpoint(Wandering)
