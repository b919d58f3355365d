"""POST /v1/completions: texts or token ids, many at once, with echo and scoring of prompts."""

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from ...core.config import Config
from ...core.output import CompletionDelta, CompletionOutput, Logprob, RequestOutput, StreamDelta
from ..errors import ERRORS
from .generation import Generation, unless_disconnected
from .logprobs import completion_logprobs, prompt_logprobs
from .models import check_model
from .prompts import encode_texts
from .protocol import CompletionRequest
from .responses import Completion, CompletionChoice, CompletionLogprobs, Usage
from .stream import respond

if TYPE_CHECKING:
    from ...core.async_llm import AsyncLLM

__all__ = ("completion_handler",)

Prompt = str | list[int]
Position = dict[int, Logprob]


class _Answer:
    """One answer on its way out, whole or in chunks. Choice j of prompt i has index i * n + j."""

    def __init__(
        self,
        engine: "AsyncLLM",
        request: CompletionRequest,
        prompts: list[Prompt],
        generation: Generation,
        head: dict[str, Any],
    ) -> None:
        self._tokenizer = engine.tokenizer
        self._request = request
        self._prompts = prompts
        self._generation = generation
        self._head = head
        self._scored = bool(request.echo) and request.logprobs is not None
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()
        self._held: dict[int, list[CompletionDelta]] = {}

    def chunks(self, index: int, delta: StreamDelta) -> list[msgspec.Struct]:
        """The chunks that a delta makes, one a completion with news."""
        if self._scored and delta.prompt_logprobs is None:
            # Of n completions another may begin before the one that scores the prompt.
            self._held.setdefault(index, []).extend(delta.completions)
            return []
        found: list[msgspec.Struct] = []
        for news in self._held.pop(index, []) + delta.completions:
            choice = self._choice(index, news, delta.prompt_logprobs)
            if choice.text or choice.logprobs or choice.finish_reason:
                found.append(self._chunk([choice]))
        return found

    def last(self) -> Completion:
        """The chunk with what was used."""
        return Completion(**self._head, choices=[], usage=self._usage())

    def whole(self, outputs: list[RequestOutput]) -> Completion:
        """The answer in one piece."""
        choices = []
        for index, output in enumerate(outputs):
            for one in output.outputs:
                choice = self._choice(index, one, output.prompt_logprobs)
                if self._request.prompt_logprobs is not None:
                    scored = prompt_logprobs(output.prompt_logprobs or [])
                    choice = msgspec.structs.replace(choice, prompt_logprobs=scored)
                choices.append(choice)
        return Completion(**self._head, choices=choices, usage=self._usage())

    def _chunk(self, choices: list[CompletionChoice]) -> Completion:
        if self._request.continuous_usage:
            return Completion(**self._head, choices=choices, usage=self._usage())
        if self._request.include_usage:
            return Completion(**self._head, choices=choices, usage=None)
        return Completion(**self._head, choices=choices)

    def _usage(self) -> Usage:
        return self._generation.usage(generated=not self._request.prompt_only)

    def _choice(
        self,
        prompt: int,
        part: CompletionDelta | CompletionOutput,
        scores: list[Position | None] | None,
    ) -> CompletionChoice:
        number = prompt * self._generation.params.n + part.index
        wanted = not self._request.prompt_only
        text = part.text if wanted else ""
        ids = list(part.token_ids) if wanted else []
        positions: list[Position | None] = list(part.logprobs or []) if wanted else []
        if self._request.echo and number not in self._begun:
            text = self._echo(prompt) + text
            ids = self._generation.prompts[prompt] + ids
            positions = list(scores or []) + positions
        self._begun.add(number)
        finish, stop = part.finish_reason, part.stop_reason
        if finish is not None and not wanted:
            finish, stop = "length", None
        choice = CompletionChoice(number, text, self._logprobs(number, ids, positions), finish)
        return choice if finish is None else msgspec.structs.replace(choice, stop_reason=stop)

    def _echo(self, prompt: int) -> str:
        given = self._prompts[prompt]
        return given if isinstance(given, str) else self._tokenizer.decode(given)

    def _logprobs(
        self, number: int, ids: list[int], positions: list[Position | None]
    ) -> CompletionLogprobs | None:
        top = self._request.logprobs
        if top is None or not ids:
            return None
        found, self._offsets[number] = completion_logprobs(
            self._tokenizer, ids, positions, top=top, offset=self._offsets.get(number, 0)
        )
        return found


def completion_handler(config: Config, engine: "AsyncLLM") -> Any:
    """The endpoint."""

    async def answer(data: CompletionRequest) -> Response[Any]:
        model = check_model(config, data.model)
        params = data.sampling()
        prompts = data.prompts(config.server.max_prompts)
        special = data.add_special_tokens is not False
        ids = await encode_texts(engine.tokenizer, prompts, add_special_tokens=special)
        request_id = f"cmpl-{uuid.uuid4().hex}"
        generation = Generation(engine, request_id, ids, params, data)
        head = {"id": request_id, "created": int(time.time()), "model": model}
        shape = _Answer(engine, data, prompts, generation, head)
        return await respond(generation, shape, data)

    @post(
        "/v1/completions",
        status_code=200,
        summary="Complete texts",
        responses={
            **ERRORS,
            200: ResponseSpec(Completion, description="The answer, or its stream"),
        },
    )
    async def create_completion(
        request: Request[Any, Any, Any], data: JSONBody[CompletionRequest]
    ) -> Response[Any]:
        return await unless_disconnected(request.receive, answer(data))

    return create_completion
