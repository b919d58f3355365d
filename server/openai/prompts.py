"""From messages and texts to token ids, off the event loop when there is much to read."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ...core.errors import InvalidRequest
from .protocol import ChatRequest, ContentPart, Message

if TYPE_CHECKING:
    from ...core.text.tokenizer import Tokenizer

__all__ = ("encode_chat", "encode_texts")

# Characters that are tokenized in about a millisecond.
LONG_TEXT = 8192

T = TypeVar("T")


async def encode_chat(tokenizer: "Tokenizer", request: ChatRequest) -> list[int]:
    """A conversation as token ids, by the model's chat template.

    Raises:
        InvalidRequest: for messages or tools that cannot be rendered.
    """
    messages = [_message(i, message) for i, message in enumerate(request.messages)]
    tools = None if request.tool_choice == "none" else _tools(request.tools)
    add_prompt = request.add_generation_prompt
    continued = bool(request.continue_final_message)
    if continued and add_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other",
            "continue_final_message",
        )

    def encode() -> list[int]:
        return tokenizer.encode_chat(
            messages,
            tools=tools,
            add_generation_prompt=not continued if add_prompt is None else add_prompt,
            continue_final_message=continued,
            template_kwargs=request.chat_template_kwargs or {},
        )

    # A template does work for a message or a tool without text, too.
    size = sum(256 + len(message["content"]) for message in messages) + 1024 * len(tools or ())
    return await _aside(encode, size)


async def encode_texts(
    tokenizer: "Tokenizer", prompts: list[str | list[int]], *, add_special_tokens: bool
) -> list[list[int]]:
    """Prompts as token ids; those that are already pass through."""

    def encode() -> list[list[int]]:
        return [
            tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
            if isinstance(prompt, str)
            else prompt
            for prompt in prompts
        ]

    return await _aside(encode, sum(len(p) for p in prompts if isinstance(p, str)))


async def _aside(work: Callable[[], T], size: int) -> T:
    return work() if size <= LONG_TEXT else await asyncio.to_thread(work)


def _message(index: int, message: Message) -> dict[str, Any]:
    """The message as chat templates read it: content as one text, calls' arguments as objects."""
    where = f"messages[{index}]"
    fields: dict[str, Any] = {"role": message.role, "content": _text(where, message.content)}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            fields[name] = value
    if message.tool_calls:
        fields["tool_calls"] = [_call(where, call) for call in message.tool_calls]
    return fields


def _text(where: str, content: str | list[ContentPart] | None) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            field = f"{where}.content[{index}]"
            raise InvalidRequest(
                f"{field} must be a part of type text: this model reads text", field
            )
    return "\n".join(part.text or "" for part in content)


def _call(where: str, call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    field = f"{where}.tool_calls"
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{field} must hold functions with a name", field)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidRequest(f"{field} must hold arguments in JSON", field) from None
    return call | {"function": function | {"arguments": arguments}}


def _tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    for tool in tools or ():
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise InvalidRequest("tools must be of type function and describe it", "tools")
        if not isinstance(function.get("name"), str):
            raise InvalidRequest("tools must have a name in their function", "tools")
    return tools or None
