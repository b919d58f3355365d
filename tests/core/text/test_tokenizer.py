"""The tokenizer against transformers' AutoTokenizer on the same folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from quire.core.errors import CheckpointError, ConfigError, InvalidRequest
from quire.core.text.tokenizer import Tokenizer

from .conftest import KINDS, load

TEXTS = [
    "",
    " ",
    "The quick brown fox",
    "  two  spaces\n\nand lines\t",
    "naïve 東京 😀😀 \u200d zero",
    "<|begin|>The<|end|> <s>fox</s> <tool> two words",
    "x" * 300,
    "\x00\x7f end",
]


@pytest.mark.parametrize("kind", KINDS)
def test_encodes_and_decodes_as_transformers(kind: str, folders: dict[str, Path]) -> None:
    ours, theirs = load(folders[kind]), AutoTokenizer.from_pretrained(folders[kind])
    assert ours.vocab_size == len(theirs)
    assert ours.special_ids == {
        token for token, added in theirs.added_tokens_decoder.items() if added.special
    }
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.eos_token_id == theirs.eos_token_id
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            for skip in (True, False):
                want = theirs.decode(ids, skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == want


@pytest.mark.parametrize(
    "change",
    [
        {"add_bos_token": False, "add_eos_token": True},
        {"pad_token": "<pad>", "additional_special_tokens": ["<a>", "<tool>"]},
        {"extra_special_tokens": {"image_token": "<img>"}, "video_token": "<vid>"},
        {"added_tokens_decoder": {"402": {"content": "<late>", "special": True}}},
        {"eos_token": {"__type": "AddedToken", "content": "fox", "lstrip": False}},
    ],
)
def test_settings_change_what_they_change_in_transformers(
    change: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "t")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | change))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    text = "The fox <pad> <a> <tool> <img> <vid> <late> dog"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)


def test_truncation_and_padding_left_in_the_file_do_nothing(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "t")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode("The quick brown fox")) == "The quick brown fox"


def test_without_tokenizer_json_transformers_is_asked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    raw = json.loads((folders["byte_level"] / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in raw["model"]["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.eos_token_id == theirs.eos_token_id == 1


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.tokenizer"):
        load(tmp_path, tokenizer="/nowhere/at/all")
    with pytest.raises(ConfigError, match=r"model\.chat_template"):
        load(tmp_path, chat_template=str(tmp_path / "missing.jinja"))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("chat_template.jinja", b"\xff\xfe\x00"),
        ("tokenizer_config.json", b"[" * 10**5),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default", "template": 3}]}'),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "y"}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": "y"}}'),
        ("tokenizer_config.json", b'{"extra_special_tokens": 3}'),
    ],
    ids=lambda value: str(value)[:60],
)
def test_damaged_files_are_named(
    file: str, data: bytes, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(folders["byte_level"], folder)
    (folder / file).write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_code_of_a_repository_does_not_run_untrusted(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w')\nclass Trap: pass\n")
    settings = {"auto_map": {"AutoTokenizer": ["trap.Trap", None]}, "tokenizer_class": "Trap"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "trap"}))
    with pytest.raises(CheckpointError):
        load(tmp_path)
    assert not marker.exists()


def test_another_tokenizer_can_be_named(folders: dict[str, Path]) -> None:
    other = load(folders["byte_level"], tokenizer=str(folders["word_piece"]))
    assert other.encode("fox") == load(folders["word_piece"]).encode("fox")


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_token_bytes_joined_are_the_text(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    text = "a naïve 東京 🤖 line"
    ids = tokenizer.encode(text, add_special_tokens=False)
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined.removeprefix(" ") == text
    assert any("\ufffd" in tokenizer.token_text(token) for token in ids)
    assert any(tokenizer.token_text(token).startswith(" ") for token in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_are_no_tokens_have_no_text(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    assert tokenizer.token_bytes(10**6) == b""
    assert tokenizer.token_text(10**6) == ""
    assert tokenizer.decode([10**6]) == ""
    for bad in (-1, 2**40):
        with pytest.raises(InvalidRequest):
            tokenizer.decode([bad])


def test_text_that_cannot_be_encoded_is_refused(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InvalidRequest, match="surrogates"):
        tokenizers["byte_level"].encode("\ud800")
    with pytest.raises(InvalidRequest, match="characters"):
        tokenizers["byte_level"].encode("x" * (32 * 2**20 + 1))
