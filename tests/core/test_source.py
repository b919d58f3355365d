"""Source: where files are found, and what is refused about them."""

import json
from pathlib import Path
from typing import Any

import pytest

from quire.core.config import ModelConfig
from quire.core.errors import CheckpointError
from quire.core.registry import Registry
from quire.core.source import locate, open_folder

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_attention_heads": 4,
}


def write(folder: Path, config: Any = CONFIG, generation: Any = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path)
    model = ModelConfig(name=str(tmp_path), trust_remote_code=True)
    source = locate(model, Registry())
    assert source.folder == tmp_path
    assert source.trust_remote_code
    assert source.architecture() == "LlamaForCausalLM"
    assert source.context_length() == 64
    assert source.head_size() == 8
    assert source.dtype() == "float32"
    assert source.quantization() is None


class _Names:
    """A registry with one named checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def names(self, kind: str) -> list[str]:
        return ["nightingale"] if kind == "checkpoint" else []

    def make(self, kind: str, name: str) -> Any:
        class Named:
            folder = staticmethod(lambda: self.path)

        return Named


def test_a_named_checkpoint_comes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nightingale").mkdir()
    (tmp_path / "shipped").mkdir()
    write(tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    registry: Any = _Names(tmp_path / "shipped")
    assert locate(ModelConfig(name="nightingale"), registry).folder == tmp_path / "shipped"


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        ({}, None, []),
        ({"eos_token_id": 2}, None, [2]),
        ({"eos_token_id": 2}, {"eos_token_id": [7, 9]}, [7, 9]),
        ({"eos_token_id": [2, 3]}, {"eos_token_id": None}, [2, 3]),
        ({"eos_token_id": 0}, {}, [0]),
    ],
)
def test_eos(config: Any, generation: Any, ids: list[int], tmp_path: Path) -> None:
    assert open_folder(write(tmp_path, config, generation)).eos_token_ids() == ids


@pytest.mark.parametrize("eos", ["</s>", True, [1, "2"], -1, [2, False]])
def test_eos_of_the_wrong_kind(eos: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        open_folder(write(tmp_path, {"eos_token_id": eos})).eos_token_ids()


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": NaN}', "[" * 10**5, "\xff\xfe{}"])
def test_config_that_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_folder(tmp_path)


def test_config_too_large(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(CheckpointError, match="at most"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/nowhere/at/all", "looks like a folder"),
        ("./nowhere", "looks like a folder"),
        ("a/b/c", "looks like a folder"),
        ("white space", "neither a folder"),
        ("", r"model\.name '' is empty"),
        (" ", "is empty"),
        ("somebody/something", "could not be fetched"),
    ],
)
def test_nothing_there(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=words):
        locate(ModelConfig(name=name), Registry())


def test_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        locate(ModelConfig(name=str(tmp_path / "file")), Registry())
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        locate(ModelConfig(name=str(tmp_path)), Registry())


def test_a_repository_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision reaches the hub's cache, and nothing is fetched that is there."""
    repository = tmp_path / "models--somebody--something"
    for revision in ("abc", "def"):
        folder = repository / "snapshots" / (revision + "0" * 37)
        folder.mkdir(parents=True)
        write(folder, CONFIG | {"note": revision})
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(folder.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for revision in ("abc", "def"):
        model = ModelConfig(name="somebody/something", revision=revision)
        source = locate(model, Registry())
        assert source.config["note"] == revision
        assert source.revision == revision
    with pytest.raises(CheckpointError, match="fetched"):
        locate(ModelConfig(name="somebody/something", revision="nope"), Registry())
