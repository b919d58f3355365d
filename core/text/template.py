"""Chat templates: from messages to the text a model was trained on.

A template comes with a model, so it is a stranger's program: it runs in jinja2's immutable
sandbox, sees plain values only, and has a budget of loop rounds, calls and characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InvalidRequest

__all__ = ("ChatTemplate",)

# Rounds of all loops together with all calls of one rendering.
_MAX_STEPS = 1_000_000
_MAX_CHARACTERS = 16 * 2**20
_MAX_DEPTH = 64
_RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"}
    | {"tokenize", "bos_token", "eos_token", "unk_token", "pad_token"}
)
_REASONING = ("reasoning_content", "thinking", "reasoning")
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_steps: ContextVar[list[int]] = ContextVar("steps")


class ChatTemplate:
    """A compiled template.

    Args:
        text: in jinja2, as Hugging Face's tokenizers carry it.
        special_tokens: what the template may name, such as ``bos_token``.

    Raises:
        jinja2.TemplateSyntaxError: when the text is no template.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str]) -> None:
        self._template = _environment.from_string(text)
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: each with ``role`` and whatever else the template reads; keys that are None
                count as absent.
            tools: JSON schemas of functions.
            add_generation_prompt: end with the header of the assistant's next message.
            continue_final_message: leave the last message open, for the model to go on with.
            template_kwargs: further variables of the template.

        Raises:
            InvalidRequest: when the template refuses the messages or exceeds its budget.
        """
        chat = _conversation(messages)
        extra = _plain(template_kwargs or {}, "chat_template_kwargs")
        if taken := _RESERVED.intersection(extra):
            raise InvalidRequest(
                f"chat_template_kwargs must not set {', '.join(sorted(taken))}",
                "chat_template_kwargs",
            )
        final = ""
        if continue_final_message:
            if add_generation_prompt:
                raise InvalidRequest(
                    "continue_final_message and add_generation_prompt exclude each other",
                    "continue_final_message",
                )
            final = _open_final(chat)
        variables = {
            "documents": None,
            **self._special_tokens,
            **extra,
            "messages": chat,
            "tools": None if tools is None else _plain(tools, "tools"),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(variables)
        return _close_at_tag(text, final) if continue_final_message else text

    def _run(self, variables: dict[str, Any]) -> str:
        token = _steps.set([0])
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(variables):
                size += len(piece)
                if size > _MAX_CHARACTERS:
                    _refuse(f"its text is longer than {_MAX_CHARACTERS} characters")
                pieces.append(piece)
        except jinja2.TemplateError as error:
            message = str(error.message or type(error).__name__)[:300]
            raise InvalidRequest(
                f"the chat template refuses this: {message}", "messages"
            ) from error
        except Exception as error:
            raise InvalidRequest(
                f"the chat template fails on these messages ({type(error).__name__})", "messages"
            ) from error
        finally:
            _steps.reset(token)
        return "".join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Counts what may repeat, and bounds what may grow."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend(1)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _refuse("it raises to a power")
        size = _size(left) + _size(right)
        if operator == "*" and size:
            size *= max(x for x in (left, right, 1) if isinstance(x, int))
        if size > _MAX_CHARACTERS:
            _refuse("it builds a value that is too long")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """``{% generation %}``: marks the assistant's part for training; here just its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _counted(items: Any) -> Any:
    """What a loop goes over, after its rounds are paid for."""
    if isinstance(items, jinja2.Undefined):
        return items
    listed = items if isinstance(items, list | tuple) else list(items)
    _spend(len(listed))
    return listed


def _spend(steps: int) -> None:
    spent = _steps.get()
    spent[0] += steps
    if spent[0] > _MAX_STEPS:
        _refuse(f"it takes more than {_MAX_STEPS} steps")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where jinja2's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _conversation(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequest("messages must be a list of at least one message", "messages")
    chat: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise InvalidRequest("each message must be an object with a role", "messages")
        known = {key: value for key, value in message.items() if value is not None}
        chat.append(_with_reasoning(_plain(known, "messages")))
    return chat


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under each of the names that templates read it by."""
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}


def _plain(value: Any, field: str, depth: int = 0) -> Any:
    """A copy made of JSON's types alone, so that a template meets no object with methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth >= _MAX_DEPTH:
        raise InvalidRequest(f"{field} is nested more than {_MAX_DEPTH} deep", field)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, field, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, field, depth + 1) for item in value]
    raise InvalidRequest(f"{field} must be made of JSON's types, not {type(value).__name__}", field)


def _open_final(chat: list[dict[str, Any]]) -> str:
    """Put the tag at the end of the last message's text, which is returned."""
    content = chat[-1].get("content")
    if isinstance(content, str):
        chat[-1]["content"] = content + _TAG
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + _TAG
            return text
    raise InvalidRequest(
        "continue_final_message needs a last message with text", "continue_final_message"
    )


def _close_at_tag(text: str, final: str) -> str:
    """The text up to the tag; without trailing space where the template trims the message."""
    at = text.rfind(_TAG.strip())
    if at < 0 or final.strip() not in text:
        raise InvalidRequest(
            "the chat template does not show the last message, so it cannot be continued",
            "continue_final_message",
        )
    return text[:at] if text[at : at + len(_TAG)] == _TAG else text[:at].rstrip()


def _make_environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["counted"] = _counted
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


_environment = _make_environment()
