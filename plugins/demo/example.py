"""The records that the curriculum is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ("Example", "Item", "Message", "user")

Message = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A generated question with its answer, before it is assigned to a split.

    Attributes:
        key: What the question is about, the same for every wording of it; the split hashes it.
            Empty for basic facts, which are always trained on.
        messages: The conversation up to the answer.
        answer: The right answer.
        wants_json: Whether the answer must be JSON.
        tools: Declared tools in the form of OpenAI's API.
    """

    key: str
    messages: list[Message]
    answer: str
    wants_json: bool = False
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Example:
    """A held-out question.

    Attributes:
        task: Name of the task it belongs to.
        messages: The conversation up to the answer.
        answer: The right answer.
        wants_json: Whether the answer must be JSON.
        tools: Declared tools in the form of OpenAI's API.
    """

    task: str
    messages: list[Message]
    answer: str
    wants_json: bool = False
    tools: list[dict[str, Any]] | None = None


def user(text: str) -> list[Message]:
    """Return a conversation of one user turn."""
    return [{"role": "user", "content": text}]
