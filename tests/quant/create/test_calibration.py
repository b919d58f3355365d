"""Calibration text."""

from pathlib import Path

import pytest

from quire.core.errors import ConfigError
from quire.core.source import open_folder
from quire.core.text.tokenizer import Tokenizer
from quire.plugins.demo import Demo
from quire.plugins.demo.curriculum import held_out
from quire.quant.create.calibration import BUILTIN, read_blocks


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(open_folder(Demo().folder()))


def test_the_builtin_text_fills_the_usual_number_of_blocks(tokenizer):
    blocks = read_blocks(BUILTIN, tokenizer, samples=128, length=512)
    assert blocks.calibration.shape == (128, 512)
    assert blocks.held_out.shape == (18, 512)


def test_the_builtin_text_holds_none_of_the_questions_of_the_evaluation():
    text = BUILTIN.read_text()
    asked = {example.messages[-1]["content"] for example in held_out(50)}
    # "Hi" and the like are trained on and asked for alike.
    long = [question for question in asked if len(question) > 40]
    assert len(long) > 100
    assert not [question for question in long if question in text]


def test_plain_text_and_lines_of_json(tokenizer, tmp_path):
    plain = tmp_path / "a.txt"
    plain.write_text("One two three.\n\nFour five six.\n" * 100)
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        '{"text": "One two three."}\n{"messages": [{"role": "user", "content": "Hi"}]}\n' * 200
    )
    for path in (plain, lines):
        blocks = read_blocks(path, tokenizer, samples=7, length=64)
        assert blocks.calibration.shape == (7, 64) and blocks.held_out.shape == (1, 64)
        assert "ne two three." in tokenizer.decode(blocks.calibration.flatten().tolist())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "too short", "fewer than two blocks of 64 tokens"),
        ("a.jsonl", '{"text": 5}', "line 1 of .*a.jsonl is no object"),
        ("a.jsonl", "{}", "line 1 of .* needs either text or messages"),
        ("a.jsonl", "[" * 10000, "line 1"),
        ("missing.txt", None, "is not a readable UTF-8 file"),
    ],
)
def test_bad_files_are_named(name, text, words, tokenizer, tmp_path: Path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_blocks(tmp_path / name, tokenizer, samples=8, length=64)
