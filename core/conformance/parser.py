"""Parsers: the events of any chunking of a text, joined, are those of the text given whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from ..contracts.parser import OutputParser, ParsedPiece
from .report import require

__all__ = ("SAMPLES", "check_parser", "joined")

# Texts with the marks that models in use write, whole, nested, cut off and malformed.
SAMPLES = (
    "",
    "Nothing but words, 😀 and\nlines.",
    "Plain text, with a < sign, a { brace and 😀.",
    "<think>first this\n</think>\n\nThen that.",
    "No end <think>of thinking",
    "</think>only an end",
    "<think></think><think>again</think>",
    '<tool_call>\n{"name": "f", "arguments": {"a": "<b>"}}\n</tool_call>',
    'Text <tool_call>{"name": "f", "arguments": {}}</tool_call> and '
    '<tool_call>{"name": "g", "arguments": {"n": [1, {"m": 2}]}}</tool_call> text',
    '<tool_call>{"name": "f", "arguments": {"a": ',
    "<tool_call>not json</tool_call>",
    '<|python_tag|>{"name": "f", "parameters": {"a": 1}}',
    '{"name": "f", "parameters": {"a": "}"}}',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]',
    '<function=f>{"a": 1}</function>',
    "<<think>><</think>> <tool_call",
)
_ROUNDS = 12


def check_parser(factory: Callable[[], OutputParser], samples: Sequence[str] = SAMPLES) -> None:
    """Check a parser.

    Args:
        factory: makes one in its first state.
        samples: texts to parse; add those of the format at hand.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    chance = random.Random(0)
    for text in (*samples, "".join(samples)):
        whole = joined(_parse(factory(), [text]))
        _check_pieces(whole, text)
        for round_ in range(_ROUNDS):
            # The first round goes letter by letter, the others cut at random.
            most = 1 if round_ == 0 else chance.choice((2, 5, 20))
            pieces = joined(_parse(factory(), _cut(text, most, chance)))
            require(
                pieces == whole,
                f"in chunks {text!r} parses to {pieces!r}, and given whole to {whole!r}",
            )
    parser = factory()
    parser.feed("some text")
    require(
        joined(_parse(factory(), ["more"])) == joined(_parse(factory(), ["more"])),
        "a parser shares state with another one",
    )


def joined(pieces: Iterable[ParsedPiece]) -> list[ParsedPiece]:
    """Neighbouring pieces that belong together made one; pieces that say nothing left out."""
    whole: list[ParsedPiece] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if last and (last.kind, last.call) == (piece.kind, piece.call) and piece.name is None:
            whole[-1] = ParsedPiece(last.kind, last.text + piece.text, last.call, last.name)
        elif piece.text or piece.name is not None:
            whole.append(piece)
    return whole


def _parse(parser: OutputParser, chunks: Iterable[str]) -> list[ParsedPiece]:
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)]
    return pieces + parser.finish()


def _cut(text: str, most: int, chance: random.Random) -> list[str]:
    chunks = []
    at = 0
    while at < len(text):
        size = chance.randint(1, most)
        chunks.append(text[at : at + size])
        at += size
    return chunks


def _check_pieces(pieces: Sequence[ParsedPiece], text: str) -> None:
    calls = 0
    for piece in pieces:
        if piece.kind != "tool":
            require(
                piece.call is None and piece.name is None,
                f"a piece of {piece.kind} of {text!r} names a call",
            )
            continue
        require(bool(piece.name), f"a tool call of {text!r} begins without a name")
        require(
            piece.call == calls,
            f"tool call {piece.call} of {text!r} comes where {calls} is due",
        )
        calls += 1
    if not any(mark in text for mark in "<[{|"):
        content = "".join(piece.text for piece in pieces)
        require(content == text, f"{text!r} holds no marks and parses to {content!r}")
