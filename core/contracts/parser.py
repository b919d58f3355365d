"""Parsers: split generated text into content, reasoning and tool calls while it streams.

Property every parser keeps: the events of any chunking of a text, joined, are those of the text
given whole. Life cycle: one parser a completion; ``feed`` each piece, then ``finish``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import msgspec

__all__ = ("CONTRACT_VERSION", "OutputParser", "ParsedPiece")

CONTRACT_VERSION = 1


class ParsedPiece(msgspec.Struct, frozen=True):
    """A piece of output.

    Attributes:
        kind: what the text belongs to.
        text: of content or reasoning, or the next characters of a call's JSON arguments.
        call: index of the tool call, for kind "tool".
        name: the tool's name, in the first piece of a call.
    """

    kind: Literal["content", "reasoning", "tool"]
    text: str
    call: int | None = None
    name: str | None = None


class OutputParser(ABC):
    """The state of one completion."""

    @abstractmethod
    def feed(self, text: str) -> list[ParsedPiece]:
        """What is certain after this much more text."""

    @abstractmethod
    def finish(self) -> list[ParsedPiece]:
        """What was held back; malformed calls come out as content."""
