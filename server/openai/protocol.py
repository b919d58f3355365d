"""What clients send: OpenAI's fields and vLLM's extras, as far as this engine honours them.

Fields that nobody knows are ignored, as OpenAI and vLLM do. Fields that are known, would change
the result and are not supported are refused by name. The rules for sampling values are those of
``SamplingParams``; here stand only the kinds of value that JSON may hold.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ...core.errors import InvalidRequest
from ...core.request import MAX_LOGPROBS, MAX_N, SamplingParams

__all__ = (
    "ChatRequest",
    "CompletionRequest",
    "ContentPart",
    "GenerationRequest",
    "Message",
    "StreamOptions",
)

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]

SAMPLING_FIELDS = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
)


def _plain_text(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "text"


# Field -> whether a value of it asks for nothing beyond what is done anyway.
HARMLESS: dict[str, Callable[[Any], bool]] = {
    "response_format": _plain_text,
    "structured_outputs": lambda value: False,
    "guided_json": lambda value: False,
    "guided_regex": lambda value: False,
    "guided_choice": lambda value: False,
    "guided_grammar": lambda value: False,
    "use_beam_search": lambda value: value is False,
    "logits_processors": lambda value: value == [],
    "truncate_prompt_tokens": lambda value: False,
    "logprob_token_ids": lambda value: value == [],
    "return_token_ids": lambda value: value is False,
    "return_tokens_as_token_ids": lambda value: value is False,
    "thinking_token_budget": lambda value: False,
    "kv_transfer_params": lambda value: False,
}
HARMLESS_IN_CHAT: dict[str, Callable[[Any], bool]] = {
    "tool_choice": lambda value: value in ("none", "auto"),
    "functions": lambda value: value == [],
    "function_call": lambda value: value in ("none", "auto"),
    "modalities": lambda value: value == ["text"],
    "audio": lambda value: False,
    "web_search_options": lambda value: False,
    "chat_template": lambda value: False,
    "documents": lambda value: value == [],
    "echo": lambda value: value is False,
    "add_special_tokens": lambda value: value is False,
}
HARMLESS_IN_COMPLETIONS: dict[str, Callable[[Any], bool]] = {
    "suffix": lambda value: value == "",
    "prompt_embeds": lambda value: False,
}


class StreamOptions(msgspec.Struct, frozen=True):
    """Which chunks carry usage.

    Attributes:
        include_usage: a last chunk without choices holds it.
        continuous_usage_stats: every chunk holds what was used so far.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What chat and completions have in common; the fields are documented in docs/http-api.md."""

    model: str | None = None
    n: int | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[TokenId, float] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    use_beam_search: Any = None
    logits_processors: Any = None
    truncate_prompt_tokens: Any = None
    logprob_token_ids: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    thinking_token_budget: Any = None
    kv_transfer_params: Any = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream carries usage."""
        return self.include_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def _check(self, harmless: dict[str, Callable[[Any], bool]]) -> None:
        for field, accepts in (HARMLESS | harmless).items():
            value = getattr(self, field)
            if value is not None and not accepts(value):
                raise InvalidRequest(f"{field} with this value is not supported here", field)
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequest("best_of is supported only equal to n", "best_of")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", "stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequest(
                "prompt_logprobs cannot be streamed; leave stream out", "prompt_logprobs"
            )

    def _sampling(self, **more: Any) -> SamplingParams:
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        return SamplingParams(**{k: v for k, v in given.items() if v is not None}, **more)


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message; of its types only text is read here."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, kw_only=True, frozen=True):
    """A message of a conversation."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatRequest(GenerationRequest, kw_only=True, frozen=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=256)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None
    chat_template: Any = None
    documents: Any = None
    echo: Any = None
    add_special_tokens: Any = None

    def sampling(self) -> SamplingParams:
        """How to sample.

        Raises:
            InvalidRequest: naming the field that is wrong or not supported.
        """
        self._check(HARMLESS_IN_CHAT)
        if not 0 <= (self.top_logprobs or 0) <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs must be an integer from 0 to {MAX_LOGPROBS}", "top_logprobs"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
        limit = (
            self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        )
        top = (self.top_logprobs or 0) if self.logprobs else None
        return self._sampling(logprobs=top, max_tokens=limit)


class CompletionRequest(GenerationRequest, kw_only=True, frozen=True):
    """The body of POST /v1/completions.

    Attributes:
        prompt: text, token ids, or a list of one of these.
    """

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: int | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None

    suffix: Any = None
    prompt_embeds: Any = None

    @property
    def prompt_only(self) -> bool:
        """Whether no token is wanted: the prompt is scored or echoed."""
        return self.max_tokens == 0

    def sampling(self) -> SamplingParams:
        """How to sample; one token is generated, and later dropped, where none is wanted.

        Raises:
            InvalidRequest: naming the field that is wrong or not supported.
        """
        self._check(HARMLESS_IN_COMPLETIONS)
        limit = 16 if self.max_tokens is None else max(self.max_tokens, 1)
        params = self._sampling(logprobs=self.logprobs, max_tokens=limit)
        if not self.echo or self.logprobs is None:
            return params
        scored = max(self.logprobs, self.prompt_logprobs or 0)
        return msgspec.structs.replace(params, prompt_logprobs=scored)

    def prompts(self, most: int) -> list[str | list[int]]:
        """The prompts one by one.

        Args:
            most: prompts in one request.

        Raises:
            InvalidRequest: when there is none, too many, or kinds are mixed.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [item for item in self.prompt if isinstance(item, str)]
        lists = [item for item in self.prompt if isinstance(item, list)]
        if not self.prompt:
            raise InvalidRequest("prompt must not be empty", "prompt")
        if not texts and not lists:
            return [[item for item in self.prompt if isinstance(item, int)]]
        if len(self.prompt) not in (len(texts), len(lists)):
            raise InvalidRequest("prompt must hold items of one kind", "prompt")
        if len(self.prompt) > most:
            raise InvalidRequest(
                f"prompt holds {len(self.prompt)} prompts; server.max_prompts is {most}", "prompt"
            )
        count, limit = len(self.prompt) * (self.n or 1), max(most, MAX_N)
        if count > limit:
            raise InvalidRequest(
                f"{len(self.prompt)} prompts with n of {self.n} are {count} completions; one "
                f"request may ask for {limit}",
                "n",
            )
        return [*texts, *lists]
