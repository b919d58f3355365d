"""Chat templates: from messages to the text a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from ..errors import InvalidRequest
from .sandbox import MAX_CHARACTERS, budget, compile_template, refuse

__all__ = ("ChatTemplate",)

_MAX_DEPTH = 64
_RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"}
    | {"tokenize", "bos_token", "eos_token", "unk_token", "pad_token"}
)
_REASONING = ("reasoning_content", "thinking", "reasoning")
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """A compiled template.

    Args:
        text: in jinja2, as Hugging Face's tokenizers carry it.
        special_tokens: what the template may name, such as ``bos_token``.

    Raises:
        jinja2.TemplateSyntaxError: when the text is no template.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str]) -> None:
        self._template = compile_template(text)
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
        pieces: list[str] = []
        size = 0
        try:
            with budget():
                for piece in self._template.generate(variables):
                    size += len(piece)
                    if size > MAX_CHARACTERS:
                        refuse(f"its text is longer than {MAX_CHARACTERS} characters")
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
        return "".join(pieces)


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
