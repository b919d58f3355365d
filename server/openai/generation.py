"""The engine's work behind one HTTP request: its prompts, merged, counted, and let go of."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from litestar.types import Receive

from ...core.collect import gather
from ...core.output import CompletionOutput, RequestOutput, StreamDelta
from ...core.request import SamplingParams
from ..errors import APIError
from .protocol import GenerationRequest
from .responses import CompletionTokensDetails, PromptTokensDetails, Usage

if TYPE_CHECKING:
    from ...core.async_llm import AsyncLLM

__all__ = ("Generation", "unless_disconnected")

logger = logging.getLogger("quire.server")

T = TypeVar("T")
Event = tuple[int, StreamDelta]


class Generation:
    """What the engine generates for one HTTP request. Iterated once, after ``start``.

    Args:
        engine: that generates.
        request_id: of the HTTP request; prompt i is known to the engine as ``request_id-i``.
        prompts: token ids of each.
        params: the same for all.
        request: with its priority and its cache salt.

    Attributes:
        request_id: as given.
        params: as given.
        prompts: as given.
    """

    def __init__(
        self,
        engine: "AsyncLLM",
        request_id: str,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        request: GenerationRequest,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.prompts = prompts
        self._engine = engine
        self._open = {f"{request_id}-{index}": index for index in range(len(prompts))}
        self._cached = [0] * len(prompts)
        self._accepted = [0] * len(prompts)
        self._rejected = [0] * len(prompts)
        self._generated = 0
        self._first: Event | None = None
        self._events = _merge(
            [
                engine.stream(
                    prompts[index],
                    params,
                    request_id=name,
                    priority=request.priority or 0,
                    cache_salt=request.cache_salt or "",
                    streamed=bool(request.stream),
                )
                for name, index in self._open.items()
            ]
        )

    async def start(self) -> None:
        """Wait for the first news, so that a refusal still has its status code.

        Raises:
            QuireError: whatever the engine says to the request.
            APIError: when generation failed.
        """
        try:
            self._first = await self._next()
        except BaseException:
            self.abort()
            raise

    async def __aiter__(self) -> AsyncIterator[Event]:
        event = self._first
        while event is not None:
            yield event
            event = await self._next()

    async def collect(self) -> list[RequestOutput]:
        """Everything, by prompt."""
        outputs = [
            RequestOutput("", None, prompt, None, self._completions(), False)
            for prompt in self.prompts
        ]
        try:
            async for index, delta in self:
                gather(outputs[index], delta)
        finally:
            self.abort()
        return outputs

    def abort(self) -> None:
        """Stop what still runs; never waits, so that it can run while being cancelled."""
        for name in self._open:
            self._engine.abort(name)
        self._open.clear()

    def usage(self, *, generated: bool = True) -> Usage:
        """Tokens so far; prompts count whole.

        Args:
            generated: False where the caller asked for no tokens and gets none.
        """
        prompt = sum(map(len, self.prompts))
        completion = self._generated if generated else 0
        details = PromptTokensDetails(sum(self._cached))
        drafted = CompletionTokensDetails(sum(self._accepted), sum(self._rejected))
        return Usage(prompt, completion, prompt + completion, details, drafted)

    def _completions(self) -> list[CompletionOutput]:
        return [CompletionOutput(index) for index in range(self.params.n)]

    async def _next(self) -> Event | None:
        event = await anext(self._events, None)
        if event is None:
            return None
        index, delta = event
        self._cached[index] = delta.num_cached_tokens
        self._accepted[index] = delta.num_accepted_tokens
        self._rejected[index] = delta.num_rejected_tokens
        for news in delta.completions:
            self._generated += len(news.token_ids)
            if news.finish_reason == "error":
                logger.error("generation failed: %s", news.error)
                raise APIError(
                    500,
                    "the engine failed on this request; the server's log has the reason",
                    "generation_failed",
                )
        if delta.finished:
            self._open = {name: i for name, i in self._open.items() if i != index}
        return event


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled as soon as the client hangs up.

    Raises:
        APIError: when the client hung up; nobody reads it.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise APIError(499, "the client closed the connection", "client_closed")
    finally:
        watch.cancel()
        task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _merge(streams: Sequence[AsyncIterator[StreamDelta]]) -> AsyncIterator[Event]:
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def pump(index: int, stream: AsyncIterator[StreamDelta]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((index, delta))
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(*item)) for item in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
