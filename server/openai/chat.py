"""POST /v1/chat/completions."""

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from ...core.config import Config
from ...core.output import CompletionDelta, CompletionOutput, RequestOutput, StreamDelta
from ..errors import ERRORS
from .generation import Generation, unless_disconnected
from .logprobs import chat_logprobs, prompt_logprobs
from .models import check_model
from .prompts import encode_chat
from .protocol import ChatRequest
from .responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    Delta,
)
from .stream import respond

if TYPE_CHECKING:
    from ...core.async_llm import AsyncLLM

__all__ = ("chat_handler",)


class _Answer:
    """One answer on its way out, whole or in chunks."""

    def __init__(
        self, engine: "AsyncLLM", request: ChatRequest, generation: Generation, model: str, id_: str
    ) -> None:
        self._tokenizer = engine.tokenizer
        self._request = request
        self._generation = generation
        self._head: dict[str, Any] = {"id": id_, "created": int(time.time()), "model": model}
        self._begun: set[int] = set()

    def chunks(self, _index: int, delta: StreamDelta) -> list[msgspec.Struct]:
        """The chunks that a delta makes, one a completion with news."""
        choices = [self._chunk_choice(news) for news in delta.completions if self._tells(news)]
        return [self._chunk([choice]) for choice in choices]

    def last(self) -> ChatChunk:
        """The chunk with what was used."""
        return ChatChunk(**self._head, choices=[], usage=self._generation.usage())

    def whole(self, outputs: list[RequestOutput]) -> ChatCompletion:
        """The answer in one piece."""
        output = outputs[0]
        answer = ChatCompletion(
            **self._head,
            choices=[self._choice(one) for one in output.outputs],
            usage=self._generation.usage(),
        )
        if self._request.prompt_logprobs is None:
            return answer
        scored = prompt_logprobs(output.prompt_logprobs or [])
        return msgspec.structs.replace(answer, prompt_logprobs=scored)

    def _choice(self, one: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            one.index,
            ChatMessage("assistant", one.text),
            self._logprobs(one),
            one.finish_reason,
            one.stop_reason,
        )

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        if self._request.continuous_usage:
            return ChatChunk(**self._head, choices=choices, usage=self._generation.usage())
        if self._request.include_usage:
            return ChatChunk(**self._head, choices=choices, usage=None)
        return ChatChunk(**self._head, choices=choices)

    def _tells(self, news: CompletionDelta) -> bool:
        """Whether there is anything to show; a detokenizer may still hold the text back."""
        return bool(
            news.text or news.logprobs or news.finish_reason or news.index not in self._begun
        )

    def _chunk_choice(self, news: CompletionDelta) -> ChatChunkChoice:
        first = news.index not in self._begun
        self._begun.add(news.index)
        content = news.text if news.text or first else None
        choice = ChatChunkChoice(
            news.index,
            Delta("assistant" if first else None, content),
            self._logprobs(news),
            news.finish_reason,
        )
        if news.finish_reason is None:
            return choice
        return msgspec.structs.replace(choice, stop_reason=news.stop_reason)

    def _logprobs(self, part: CompletionDelta | CompletionOutput) -> ChatLogprobs | None:
        if not self._request.logprobs:
            return None
        top = self._request.top_logprobs or 0
        return chat_logprobs(self._tokenizer, part.logprobs or [], top)


def chat_handler(config: Config, engine: "AsyncLLM") -> Any:
    """The endpoint."""

    async def answer(data: ChatRequest) -> Response[Any]:
        model = check_model(config, data.model)
        params = data.sampling()
        prompt = await encode_chat(engine.tokenizer, data)
        request_id = f"chatcmpl-{uuid.uuid4().hex}"
        generation = Generation(engine, request_id, [prompt], params, data)
        shape = _Answer(engine, data, generation, model, request_id)
        return await respond(generation, shape, data)

    @post(
        "/v1/chat/completions",
        status_code=200,
        summary="Answer a conversation",
        responses={
            **ERRORS,
            200: ResponseSpec(ChatCompletion, description="The answer, or its stream"),
        },
    )
    async def create_chat_completion(
        request: Request[Any, Any, Any], data: JSONBody[ChatRequest]
    ) -> Response[Any]:
        return await unless_disconnected(request.receive, answer(data))

    return create_chat_completion
