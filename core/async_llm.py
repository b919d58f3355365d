"""AsyncLLM: the engine in a process of its own, for servers and asynchronous programs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from .collect import Collector, gather
from .config import Config
from .contracts.exporter import Rejection
from .errors import EngineDeadError, InvalidRequest, Overloaded
from .frontend import Frontend, Prompt
from .link import Link
from .metrics import EngineStats, RequestRecord
from .output import CompletionOutput, RequestOutput, StreamDelta
from .registry import Registry
from .request import SamplingParams
from .source import Source, locate
from .step import Delta
from .text.tokenizer import Tokenizer
from .wire import Abort, EngineInfo, Fatal, Refused, Rejected, Start, Step, Submit

__all__ = ("AsyncLLM", "Observer")


class Observer(Protocol):
    """Hears of every step and every finished request; an exporter is one."""

    def engine(self, stats: EngineStats) -> None: ...

    def request(self, record: RequestRecord) -> None: ...

    def rejected(self, reason: Rejection) -> None: ...

    def healthy(self, alive: bool) -> None: ...


class AsyncLLM:
    """A running engine; make one with ``await AsyncLLM.start(config)``.

    Attributes:
        config: resolved.
        reasons: dotted key -> why it has its value.
        tokenizer: of the model.
        alive: whether the engine's process is there and takes requests.
        stats: of the engine after its last step.
    """

    def __init__(self, link: Link, info: EngineInfo, source: Source, registry: Registry) -> None:
        self.config = info.config
        self.reasons = info.reasons
        self.registry = registry
        self.stats = EngineStats(blocks_total=info.num_blocks - 1)
        self.alive = True
        self.tokenizer = Tokenizer.load(source, info.config.model)
        self._frontend = Frontend(info, source, self.tokenizer)
        self._link = link
        self._collectors: dict[str, tuple[Collector, asyncio.Queue[_News]]] = {}
        self._observers: list[Observer] = []
        self._dead = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        config: Config,
        *,
        registry: Registry | None = None,
        on_phase: Callable[[str, float], None] | None = None,
    ) -> AsyncLLM:
        """Start the engine's process and wait until it takes requests.

        Args:
            config: as written.
            registry: with the plugins it names; built when None.
            on_phase: called with each phase of the start and its seconds.

        Raises:
            QuireError: what the user must change, as the engine's process found it.
            EngineDeadError: when the process ends without a word.
        """
        registry = registry or Registry(config.plugins.load)
        source = locate(config.model, registry)
        spawned = time.monotonic()
        link = await Link.open()
        try:
            link.send(Start(config, spawned))
            info = await link.wait_ready(on_phase or (lambda name, seconds: None))
            return cls(link, info, source, registry)
        except BaseException:
            await link.close()
            raise

    def add_observer(self, observer: Observer) -> None:
        """From now on, tell it of every step and every finished request."""
        self._observers.append(observer)
        observer.healthy(self.alive)

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        streamed: bool = True,
    ) -> AsyncIterator[StreamDelta]:
        """Complete a prompt and yield what is new after each step; closing it aborts.

        Args:
            prompt: text, token ids, ``{"prompt": ...}`` or ``{"prompt_token_ids": [...]}``.
            params: of sampling.
            request_id: a label that ``abort`` understands too.
            priority: smaller is sooner, for policies that look at it.
            cache_salt: requests of different salts share no prefix.
            streamed: False where nobody reads tokens as they come: what is new may then be all of
                a completion, at its end, and prompts of others may make its tokens wait.

        Raises:
            InvalidRequest: when the request can never run.
            Overloaded: when the queue is full.
            EngineDeadError: when the engine is gone, or goes meanwhile.
        """
        if not self.alive:
            raise EngineDeadError("the engine has stopped")
        try:
            _, ids = self._frontend.encode(prompt)
            collector, requests = self._frontend.collect(
                ids,
                params,
                request_id=request_id,
                priority=priority,
                cache_salt=cache_salt,
                streamed=streamed,
            )
        except InvalidRequest:
            self._rejected("invalid")
            raise
        queue: asyncio.Queue[_News] = asyncio.Queue()
        for request in requests:
            self._collectors[request.request_id] = (collector, queue)
        self._link.send(Submit(requests))
        try:
            while True:
                news = await _next(queue)
                yield news
                if news.finished:
                    return
        finally:
            self._drop(collector)

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, request_id: str | None = None
    ) -> AsyncIterator[RequestOutput]:
        """Like ``stream``, but each output holds everything so far, as in vLLM's AsyncLLM."""
        text, ids = self._frontend.encode(prompt)
        parts = [CompletionOutput(index) for index in range(params.n)]
        output = RequestOutput(request_id or "", text, ids, None, parts, False)
        stream = self.stream(ids, params, request_id=request_id)
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            async for delta in stream:
                output.request_id = delta.request_id
                gather(output, delta)
                yield output

    def abort(self, request_id: str) -> None:
        """End a request: its stream finishes with reason "abort". Unknown ids are ignored."""
        names = [
            name
            for name, (collector, _) in self._collectors.items()
            if collector.request_id == request_id
        ]
        if names and self.alive:
            self._link.send(Abort(names))

    async def wait_dead(self) -> None:
        """Return when the engine is no longer alive."""
        await self._dead.wait()

    async def shutdown(self) -> None:
        """End the engine's process; running requests end with EngineDeadError."""
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._die("the engine was shut down")
        await self._link.close()

    async def _read(self) -> None:
        """Hand every reply to the request it concerns, until the engine is gone."""
        reason = "the engine stopped unexpectedly"
        try:
            while (reply := await self._link.receive()) is not None:
                if isinstance(reply, Step):
                    self._take(reply)
                elif isinstance(reply, Rejected):
                    self._reject(reply)
                elif isinstance(reply, Fatal | Refused):
                    reason = reply.message
        finally:
            self._die(reason)

    def _take(self, step: Step) -> None:
        self.stats = step.stats
        for observer in self._observers:
            observer.engine(step.stats)
        aborts = []
        for delta in step.deltas:
            abort = self._deliver(delta)
            if abort is not None:
                aborts.append(abort)
        if aborts:
            self._link.send(Abort(aborts))

    def _deliver(self, delta: Delta) -> str | None:
        entry = self._collectors.get(delta.request_id)
        if entry is None:
            return None
        collector, queue = entry
        stream, abort = collector.take(delta)
        if delta.finish_reason is not None or abort is not None:
            del self._collectors[delta.request_id]
            self._publish(collector)
        if stream is not None:
            queue.put_nowait(stream)
        return abort

    def _publish(self, collector: Collector) -> None:
        record = collector.record()
        if record is None:
            return
        for observer in self._observers:
            observer.request(record)
        self.registry.hooks.hook.quire_request_finished(record=record)

    def _reject(self, reply: Rejected) -> None:
        entry = self._collectors.get(reply.request_id)
        if entry is None:
            return
        collector, queue = entry
        self._forget(collector)
        if reply.kind == "InvalidRequest":
            self._rejected("invalid")
            queue.put_nowait(InvalidRequest(reply.message, reply.param))
        else:
            self._rejected("queue_full")
            queue.put_nowait(Overloaded(reply.message))

    def _rejected(self, reason: Rejection) -> None:
        for observer in self._observers:
            observer.rejected(reason)

    def _drop(self, collector: Collector) -> None:
        """Abort what the caller no longer waits for; must not await, for it runs in ``finally``."""
        if self._forget(collector):
            collector.give_up("abort" if self.alive else "error")
            self._publish(collector)

    def _forget(self, collector: Collector) -> bool:
        """End what is left of a request in the engine; whether there was anything."""
        left = [name for name in collector.unfinished if self._collectors.pop(name, None)]
        if left and self.alive:
            self._link.send(Abort(left))
        return bool(left)

    def _die(self, reason: str) -> None:
        if not self.alive:
            return
        self.alive = False
        for _, queue in self._collectors.values():
            queue.put_nowait(EngineDeadError(reason))
        for observer in self._observers:
            observer.healthy(False)
        self._dead.set()


_News = StreamDelta | Exception


async def _next(queue: asyncio.Queue[_News]) -> StreamDelta:
    """All that has come, in one piece: a reader that is behind catches up by fewer, larger ones."""
    news = await queue.get()
    if isinstance(news, Exception):
        raise news
    while not queue.empty():
        later = queue.get_nowait()
        if isinstance(later, Exception):
            queue.put_nowait(later)
            break
        news.append(later)
    return news
