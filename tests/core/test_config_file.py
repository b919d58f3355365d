"""Configuration files: what is read, what is refused, and in which words."""

import contextlib
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.config import Config
from quire.core.config_file import MAX_BYTES, keys, load, schema
from quire.core.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "serve.yaml"
    path.write_text(text)
    return path


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_nothing_said_is_the_defaults(tmp_path):
    assert load() == Config()
    assert load(write(tmp_path, "")) == Config()
    assert load(write(tmp_path, "cache:\nserver:\n  # all comments\n")) == Config()


def test_file_then_flags_then_overrides(tmp_path):
    path = write(tmp_path, "cache: {block_size: 8, num_blocks: 9}\nserver:\n  port: 1\n")
    config = load(
        path,
        ["cache.block_size=32", "server.api_keys=[a, b]"],
        {"cache.block_size": 16, "server.port": 2},
    )
    assert config.cache.block_size == 32
    assert config.cache.num_blocks == 9
    assert config.server.port == 2
    assert config.server.api_keys == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cache:\n  blocksize: 3\n", ["cache.blocksize", "cache.block_size", "serve.yaml:2"]),
        ("max_num_seqs: 3\n", ["max_num_seqs", "schedule.max_num_seqs", "serve.yaml:1"]),
        ("chace:\n  block_size: 3\n", ["chace.block_size", "cache.block_size", "serve.yaml:2"]),
        ("a: 1\n\nserver:\n  prot: 1\n", ["unknown key a ", "server.port", "serve.yaml:4"]),
        ("cache:\n  block_size: many\n", ["cache.block_size", "an integer", "'many'", ":2"]),
        ("cache:\n  block_size: 0\n", ["cache.block_size", "at least 1", "the number 0", ":2"]),
        ("cache:\n  block_size: true\n", ["cache.block_size", "an integer", "true", ":2"]),
        ("model:\n  revision: 123\n", ["model.revision", "text", "the number 123", ":2"]),
        ("model:\n  dtype: int3\n", ["model.dtype", "bfloat16", "'int3'", ":2"]),
        (
            "server: {api_keys: [a, '']}\n",
            ["server.api_keys", "one or more visible", "one with other items", ":1"],
        ),
        (
            "server: {api_keys: [a b]}\n",
            ["server.api_keys", "one or more visible", "one with other items", ":1"],
        ),
        ("server: {served_model_name: ''}\n", ["server.served_model_name", "one or more"]),
        ("server: {drain_seconds: .inf}\n", ["server.drain_seconds", "at most 86400", "inf"]),
        ("cache: {memory_gib: .inf}\n", ["cache.memory_gib", "greater than 0", "inf", ":1"]),
        ("cache: {memory_gib: .nan}\n", ["cache.memory_gib", "the number nan", ":1"]),
        ("plugins: {load: one}\n", ["plugins.load", "a list", "'one'", ":1"]),
        ("schedule: 4\n", ["schedule", "a section", ":1"]),
        ("cache:\n  num_blocks: 4\n  num_blocks: 5\n", ["twice", "line 2", "serve.yaml:3"]),
        ("cache: {}\ncache: {}\n", ["cache", "twice", "serve.yaml:2"]),
    ],
)
def test_a_mistake_names_key_line_and_cure(tmp_path, text, words):
    message = refusal(write(tmp_path, text))
    for word in words:
        assert word in message


def test_every_mistake_is_reported_at_once(tmp_path):
    message = refusal(write(tmp_path, "a: 1\ncache: {b: 2}\nserver: {port: x}\n"))
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "[" * 5000,
        "{a: " * 5000,
        "a: [1",
        "--- {}\n--- {}\n",
        "model: {name: !!python/object/apply:os.getcwd []}\n",
        "model: {name: !thing x}\n",
        "? [a]\n: 3\n",
        "\x00",
        "just words",
        "- a\n- b\n",
        "model: {seed: 2001-13-45}\n",
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_with_the_place(tmp_path, text):
    assert "serve.yaml" in refusal(write(tmp_path, text))


def test_size_is_bounded_and_a_missing_file_is_named(tmp_path):
    assert str(MAX_BYTES) in refusal(write(tmp_path, "#" * (MAX_BYTES + 1)))
    assert "absent.yaml" in refusal(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "bytes.yaml" in refusal(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("text", ["cache.block_size", "=3", "cache.block_size=[1", "nope=1"])
def test_an_override_that_is_wrong_is_quoted(text):
    assert text in refusal(None, [text])


def test_an_override_of_a_section_says_how_its_keys_are_set():
    for value in ("3", "{name: demo}"):
        assert "model is a section; set its keys, such as model.name" in refusal(
            None, [f"model={value}"]
        )


def test_an_empty_override_is_null():
    config = load(None, ["speculation.method="], {"speculation.method": "ngram"})
    assert config.speculation.method is None


def test_every_key_goes_through_a_file(tmp_path):
    whole = msgspec.to_builtins(Config())
    assert load(write(tmp_path, yaml.safe_dump(whole))) == Config()
    assert {key.split(".")[0] for key, _ in keys()} == set(whole)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigError):
        assert isinstance(load(path), Config)


def test_schema_describes_every_key():
    whole = schema()
    sections = whole["$defs"]["Config"]["properties"]
    for key, _ in keys():
        section, name = key.split(".")
        struct = sections[section]["$ref"].rsplit("/", 1)[1]
        entry = whole["$defs"][struct]
        assert entry["properties"][name]["description"], key
        assert "Attributes:" not in entry["description"]
    assert whole["$defs"]["CacheConfig"]["additionalProperties"] is False
