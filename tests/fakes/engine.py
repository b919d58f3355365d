"""An engine in this process with a script for a model: answers known in advance, faults on demand.

It speaks AsyncLLM's interface and no more. Every prompt is completed with the same text, one byte
a token, so a test knows each token, offset and count without running a model.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from quire.core.config import Config
from quire.core.errors import EngineDeadError, InvalidRequest
from quire.core.metrics import CompletionRecord, EngineStats, RequestRecord
from quire.core.output import CompletionDelta, Logprob, StreamDelta
from quire.core.request import SamplingParams

ANSWER = "Hello, wörld! All is well."


class ByteTokenizer:
    """A token is a byte; a conversation is ``role: content`` lines."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")

    def token_text(self, token: int) -> str:
        return bytes([token]).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        self.seen = {
            "messages": list(messages),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "template_kwargs": template_kwargs,
        }
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return self.encode("".join(lines) + ("assistant: " if add_generation_prompt else ""))


class FakeEngine:
    """The engine.

    Attributes:
        gate: cleared, no token comes after the first ``before_gate``.
        before_gate: tokens that come whatever the gate says.
        refuse: raised for every request, when set.
        fail_after: tokens after which a request fails, when set.
        steps: tokens made so far, over all requests.
        aborted: ids given to ``abort`` while they ran.
        closed: ids whose stream was left before its end.
        running: ids of streams that are open.
        requests: (ids, params, keywords) of every request.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.reasons: dict[str, str] = {}
        self.observers: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """As new, but for the observers."""
        self.tokenizer = ByteTokenizer()
        self.alive = True
        self.stats = EngineStats()
        self.gate = asyncio.Event()
        self.gate.set()
        self.before_gate = 1
        self.refuse: Exception | None = None
        self.fail_after: int | None = None
        self.steps = 0
        self.aborted: list[str] = []
        self.closed: list[str] = []
        self.running: set[str] = set()
        self.requests: list[tuple[list[int], SamplingParams, dict[str, Any]]] = []
        self.streamed: list[bool] = []
        self._dead = asyncio.Event()

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)
        observer.healthy(self.alive)

    def abort(self, request_id: str) -> None:
        if request_id in self.running:
            self.aborted.append(request_id)
            self.running.discard(request_id)

    def die(self) -> None:
        self.alive = False
        self._dead.set()
        for observer in self.observers:
            observer.healthy(False)

    async def wait_dead(self) -> None:
        await self._dead.wait()

    async def shutdown(self) -> None:
        self.die()

    async def stream(
        self,
        prompt: list[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        streamed: bool = True,
    ) -> AsyncIterator[StreamDelta]:
        name = request_id or "anonymous"
        if not self.alive:
            raise EngineDeadError("the engine has stopped")
        if self.refuse is not None:
            raise self.refuse
        if not prompt:
            raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
        self.requests.append((prompt, params, {"priority": priority, "cache_salt": cache_salt}))
        self.streamed.append(streamed)
        self.running.add(name)
        try:
            async for delta in self._generate(name, prompt, params):
                yield delta
                if delta.finished:
                    self._observe(name, prompt, params)
                    self.running.discard(name)
        finally:
            if name in self.running:
                self.closed.append(name)
                self.running.discard(name)

    async def _generate(
        self, name: str, prompt: list[int], params: SamplingParams
    ) -> AsyncIterator[StreamDelta]:
        tokens = list(ANSWER.encode())[: params.max_tokens]
        cut = params.max_tokens is not None and params.max_tokens <= len(tokens)
        shown = ""
        for step, token in enumerate(tokens):
            self.steps += 1
            if step >= self.before_gate:
                await self._gate_or_death()
            await asyncio.sleep(0)
            whole = bytes(tokens[: step + 1]).decode(errors="ignore")
            text, shown = whole[len(shown) :], whole
            last = step + 1 == len(tokens)
            fails = self.fail_after is not None and step + 1 >= self.fail_after
            reason = "error" if fails else ("length" if cut else "stop") if last else None
            completions = [
                CompletionDelta(
                    index,
                    text,
                    [token],
                    None if params.logprobs is None else [logprobs(token, params.logprobs)],
                    finish_reason=reason,
                    error="<secret object at 0x7f>" if fails else None,
                )
                for index in range(params.n)
            ]
            delta = StreamDelta(name, prompt, completions, last or fails, 2)
            if params.prompt_logprobs is not None:
                scores = [logprobs(t, params.prompt_logprobs) for t in prompt[1:]]
                delta.prompt_logprobs = [None, *scores]
            yield delta
            if fails:
                return

    async def _gate_or_death(self) -> None:
        waits = [asyncio.ensure_future(e.wait()) for e in (self.gate, self._dead)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._dead.is_set():
            raise EngineDeadError("the engine stopped unexpectedly")

    def _observe(self, name: str, prompt: list[int], params: SamplingParams) -> None:
        completion = CompletionRecord(
            finish_reason="stop",
            num_generated=3,
            queued=0.25,
            first_token=1.0,
            finished=3.0,
            token_gaps=[1.0, 1.0],
        )
        record = RequestRecord(
            request_id=name,
            num_prompt=len(prompt),
            num_cached=2,
            max_tokens=params.max_tokens or 0,
            arrival=0.0,
            completions=[completion] * params.n,
        )
        for observer in self.observers:
            observer.request(record)


def logprobs(token: int, top: int) -> dict[int, Logprob]:
    """The drawn byte at -0.5 and rank 2; the bytes after it from -0.25 on, likeliest first."""
    found = {token: Logprob(-0.5, 2)}
    for rank in range(top):
        candidate = (token + rank + 1) % 128
        if rank == 1:
            continue
        found.setdefault(candidate, Logprob(-0.25 - rank, rank + 1))
    return found
