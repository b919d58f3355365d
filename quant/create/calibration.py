"""Calibration text: a file, or what ships with quire, as blocks of tokens of one length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from ...core.errors import ConfigError, QuireError
from ...core.text.tokenizer import Tokenizer

__all__ = ("BUILTIN", "Blocks", "made_up_blocks", "read_blocks")

BUILTIN = Path(__file__).with_name("calibration.jsonl")
_HELD_OUT = 8
"""Of so many blocks one is held out."""
_MOST_BYTES = 64 * 2**20


class Blocks(NamedTuple):
    """Tokens, int64 [blocks, length].

    Attributes:
        calibration: to calibrate with.
        held_out: to measure perplexity with.
    """

    calibration: torch.Tensor
    held_out: torch.Tensor


class _Document(msgspec.Struct):
    """A line of a .jsonl file: a text, or a conversation."""

    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


def read_blocks(path: Path, tokenizer: Tokenizer, *, samples: int, length: int) -> Blocks:
    """Cut a file's text into blocks; every eighth is held out.

    Args:
        path: plain text, whose documents are parted by blank lines, or .jsonl, a document a line:
            ``{"text": ...}`` or ``{"messages": [...], "tools": [...]}``.
        tokenizer: of the model.
        samples: most blocks to calibrate with.
        length: tokens of a block; each begins with the tokenizer's bos, where it adds one.

    Raises:
        ConfigError: when the file is missing, malformed, or too short for two blocks.
    """
    start = tokenizer.encode("")[:1]
    wanted = max(2, samples + samples // (_HELD_OUT - 1))
    body = length - len(start)
    blocks: list[list[int]] = []
    pending: list[int] = []
    for document in _documents(path):
        pending += _encode(document, tokenizer)
        while len(pending) >= body and len(blocks) < wanted:
            blocks.append(start + pending[:body])
            pending = pending[body:]
        if len(blocks) == wanted:
            break
    if len(blocks) < 2:
        raise ConfigError(
            f"{path} holds fewer than two blocks of {length} tokens to calibrate with; give a "
            "longer text, or a smaller --length"
        )
    return _parted(torch.tensor(blocks))


def made_up_blocks(vocab_size: int, *, samples: int, length: int, seed: int) -> Blocks:
    """Random tokens, for made-up weights."""
    generator = torch.Generator().manual_seed(seed)
    wanted = max(2, samples + samples // (_HELD_OUT - 1))
    return _parted(torch.randint(vocab_size, (wanted, length), generator=generator))


def _parted(blocks: torch.Tensor) -> Blocks:
    index = torch.arange(len(blocks))
    # Of fewer than eight, the last.
    held_out = (index + 1) % min(_HELD_OUT, len(blocks)) == 0
    return Blocks(blocks[~held_out], blocks[held_out])


def _documents(path: Path) -> Iterator[_Document]:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ConfigError(f"{path} has {size} bytes; at most {_MOST_BYTES} are read")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--calibration {path} is not a readable UTF-8 file ({error})") from error
    if path.suffix != ".jsonl":
        for part in re.split(r"\n\s*\n", text):
            yield _Document(text=part + "\n\n")
        return
    for number, line in enumerate(text.splitlines(), 1):
        try:
            document = msgspec.json.decode(line, type=_Document)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ConfigError(
                f"line {number} of {path} is no object with text or messages ({error})"
            ) from error
        if (document.text is None) == (document.messages is None):
            raise ConfigError(f"line {number} of {path} needs either text or messages")
        yield document


def _encode(document: _Document, tokenizer: Tokenizer) -> list[int]:
    if document.messages is None:
        return tokenizer.encode(document.text or "", add_special_tokens=False)
    try:
        return tokenizer.encode_chat(
            document.messages, tools=document.tools, add_generation_prompt=False
        )
    except QuireError:
        # A model without a chat template, or with one that refuses: the words alone.
        words = [str(message.get("content") or "") for message in document.messages]
        return tokenizer.encode("\n".join(words) + "\n", add_special_tokens=False)
