"""The seeded curriculum of chat turns, its held-out split and its scorer.

A question belongs to the held-out split when the hash of what it asks (operands, word, sentence,
not merely the wording) falls into a fixed twentieth of all hashes.  Training draws reject those
questions and held-out draws accept only those, so the two never share a prompt, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from . import facts, tasks_math, tasks_text, tasks_tools
from .example import Example, Item, Message
from .snippets import write_function

__all__ = ("TASKS", "Example", "held_out", "is_held_out", "score", "train_chats", "valid_json")

_HELD_OUT_SHARE = 0.05

# By task: how it is drawn, and its weight among the training chats.
TASKS: dict[str, tuple[Callable[[Random], Item], float]] = {
    "add": (tasks_math.add, 10),
    "subtract": (tasks_math.subtract, 15),
    "multiply": (tasks_math.multiply, 14),
    "divide": (tasks_math.divide, 15),
    "compare": (tasks_math.compare, 5),
    "sort": (tasks_math.sort, 9),
    "case": (tasks_text.change_case, 9),
    "reverse": (tasks_text.reverse, 9),
    "count": (tasks_text.count_letter, 8),
    "extract": (tasks_text.extract, 9),
    "tool_call": (tasks_tools.call_tool, 7),
    "tool_result": (tasks_tools.use_result, 3),
    "define": (facts.define, 3),
    "function": (write_function, 6),
    "small_talk": (facts.small_talk, 3),
}

_SYSTEM = (
    "You are a helpful assistant.", "You are a helpful assistant.", "Answer briefly.",
    "You are quire's demonstration model.", "Be concise.", "You are a careful assistant.",
    "Answer the user's question.", "You are an assistant that can call tools.",
)  # fmt: skip


def is_held_out(key: str) -> bool:
    """Say whether a question belongs to the held-out split.

    Tasks share the split: a word held out for reversing is never asked about alone in training.

    Args:
        key: What the question is about; empty means a basic fact, always trained on.
    """
    if not key:
        return False
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest) < _HELD_OUT_SHARE * 2**32


def _draw(task: str, rng: Random, held: bool) -> Item:
    """Draw a task's question from one of the two splits."""
    while True:
        item = TASKS[task][0](rng)
        if is_held_out(item.key) == held:
            return item


def held_out(n_per_task: int, seed: int = 0) -> list[Example]:
    """Draw distinct questions from the held-out split.

    Args:
        n_per_task: Questions per task; fewer come where a task's split holds fewer.
        seed: Seed of the draw.

    Returns:
        Examples, task by task.
    """
    examples = []
    for task in TASKS:
        rng = Random(f"held-out {task} {seed}")
        seen: set[str] = set()
        for _ in range(20 * n_per_task):
            if len(seen) == n_per_task:
                break
            item = _draw(task, rng, held=True)
            prompt = json.dumps([item.messages, item.tools])
            if prompt not in seen:
                seen.add(prompt)
                example = Example(task, item.messages, item.answer, item.wants_json, item.tools)
                examples.append(example)
    return examples


def _conversation(rng: Random) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Draw a training conversation of one to three questions with their answers."""
    names = list(TASKS)
    weights = [weight for _, weight in TASKS.values()]
    tools: list[dict[str, Any]] | None = None
    messages: list[Message] = []
    for turn in range(rng.choice((1, 1, 1, 2, 2, 3))):
        item = _draw(rng.choices(names, weights)[0], rng, held=False)
        if item.tools and turn:
            continue
        if item.tools:
            tools = item.tools
        messages += [*item.messages, {"role": "assistant", "content": item.answer}]
    if tools is None and rng.random() < 0.04:
        # Declared tools must not turn every question into a call.
        tools = tasks_tools.call_tool(rng).tools
    if rng.random() < 0.25:
        messages = [{"role": "system", "content": rng.choice(_SYSTEM)}, *messages]
    return messages, tools


def train_chats(seed: int) -> Iterator[tuple[list[Message], list[dict[str, Any]] | None]]:
    """Yield training conversations without end.

    Args:
        seed: Seed of the draw.

    Yields:
        Messages, the answers among them, and declared tools.
    """
    rng = Random(f"train {seed}")
    while True:
        yield _conversation(rng)


def valid_json(text: str) -> bool:
    """Say whether a text is valid JSON.

    Args:
        text: A model's answer.
    """
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def score(example: Example, text: str) -> bool:
    """Say whether an answer is right.

    Args:
        example: The question.
        text: A model's answer; JSON is compared as a value, other answers as stripped text.
    """
    if example.wants_json:
        return valid_json(text) and bool(json.loads(text) == json.loads(example.answer))
    return text.strip() == example.answer.strip()
