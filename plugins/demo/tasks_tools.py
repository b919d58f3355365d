"""Tool calls: choosing a declared tool, filling in its arguments, using its result."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from .example import Item, user
from .tools_catalog import TOOLS, Tool

__all__ = ("call_tool", "use_result")


def _declare(rng: Random, wanted: Tool) -> tuple[str, list[dict[str, Any]]]:
    """Declare the wanted tool among up to three others.

    Returns:
        The wanted tool's declared name, and the declarations.
    """
    name = rng.choice(wanted.names)
    declared = {name: wanted.declaration(name)}
    for other in rng.sample(TOOLS, rng.randint(0, 3)):
        other_name = rng.choice(other.names)
        # Two weather tools at once would make the right answer ambiguous.
        if set(other.names) & set(wanted.names) or other_name in declared:
            continue
        declared[other_name] = other.declaration(other_name)
    tools = list(declared.values())
    rng.shuffle(tools)
    return name, tools


def _request(rng: Random) -> tuple[Tool, str, str, list[dict[str, Any]]]:
    """Draw a request: the tool, the user's words, the right call and the declared tools."""
    tool = rng.choice(TOOLS)
    name, tools = _declare(rng, tool)
    wording = rng.choice(tool.requests)
    values = {key: draw(rng) for key, (_, draw) in tool.draws.items()}
    arguments = {key: value for key, value in values.items() if f"{{{key}}}" in wording}
    call = json.dumps({"name": name, "arguments": arguments})
    return tool, wording.format(**values), call, tools


def call_tool(rng: Random) -> Item:
    """Ask for something that one of the declared tools does."""
    _, text, call, tools = _request(rng)
    return Item(text, user(text), call, wants_json=True, tools=tools)


def use_result(rng: Random) -> Item:
    """Show a tool's result and ask for the final answer."""
    while True:
        tool, text, call, tools = _request(rng)
        if tool.result is not None:
            break
    result = str(tool.result(rng))
    shown = result if rng.random() < 0.4 else json.dumps({"result": result})
    parsed = json.loads(call)
    made = {"id": "call_1", "type": "function", "function": parsed}
    messages = [
        *user(text),
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": shown},
    ]
    return Item(text, messages, tool.reply.format(result=result), tools=tools)
