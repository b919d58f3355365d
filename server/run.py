"""Running the server: listen, start the engine, serve, and end well.

SIGTERM and SIGINT let no more work in (503 with Retry-After), give what runs
config.server.drain_seconds and end with status 0; a second signal ends the wait. When the engine
dies, every request in flight gets an error and the status is 1, so that a supervisor restarts it.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import uvloop

from ..core.async_llm import AsyncLLM
from ..core.config import Config
from ..core.memory import collect_seldom, freeze
from ..core.registry import Registry
from .assemble import assemble, make_exporter, metrics_app
from .gate import Gate
from .listen import FLUSH_SECONDS, address, bound, listener

__all__ = ("OnPhase", "OnReady", "run", "serve")

logger = logging.getLogger("quire.server")

T = TypeVar("T")
OnPhase = Callable[[str, float], None]
OnReady = Callable[[str, AsyncLLM], None]


def run(config: Config, *, on_phase: OnPhase | None = None, on_ready: OnReady | None = None) -> int:
    """Serve until a signal or the engine's death.

    Args:
        config: as written, before resolution.
        on_phase: called with each phase of the engine's start and its seconds.
        on_ready: called with the server's URL and the engine when requests are taken.

    Returns:
        The process's exit status: 0 after a signal, 1 when the engine died.

    Raises:
        QuireError: what must be changed before the server can start.
    """
    return uvloop.run(serve(config, on_phase=on_phase, on_ready=on_ready))


async def serve(
    config: Config, *, on_phase: OnPhase | None = None, on_ready: OnReady | None = None
) -> int:
    """What ``run`` does, on the running event loop of the main thread."""
    registry = Registry(config.plugins.load)
    stop, hurry = _signals()
    gate = Gate()
    async with contextlib.AsyncExitStack() as stack:
        sock = stack.enter_context(bound(config.server.host, config.server.port, "server.port"))
        scraped = _metrics_socket(config, stack)
        await stack.enter_async_context(listener(gate, sock))
        starting = AsyncLLM.start(config, registry=registry, on_phase=on_phase)
        engine = await _until(stop, starting)
        if engine is None:
            return 0
        await stack.enter_async_context(_ending(engine, gate))
        await stack.enter_async_context(_application(engine, registry, gate, scraped))
        if on_ready is not None:
            on_ready(address(config.server.host, sock), engine)
        await _until(stop, engine.wait_dead())
        gate.drain()
        if engine.alive:
            with contextlib.suppress(TimeoutError):
                seconds = engine.config.server.drain_seconds
                await _until(hurry, asyncio.wait_for(gate.idle(), seconds))
        if not engine.alive:
            logger.error("the engine died; ending with status 1")
            return 1
    return 0


@contextlib.asynccontextmanager
async def _ending(engine: AsyncLLM, gate: Gate) -> AsyncIterator[None]:
    """Shut the engine down at the end, and let what that ends tell its clients so."""
    try:
        yield
    finally:
        await engine.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gate.idle(), FLUSH_SECONDS)


@contextlib.asynccontextmanager
async def _application(
    engine: AsyncLLM, registry: Registry, gate: Gate, scraped: socket.socket | None
) -> AsyncIterator[None]:
    """The application behind the gate, and the port of metrics where there is one."""
    config = engine.config
    exporter = make_exporter(config, registry, engine)
    app = assemble(config, registry, engine, gate, exporter)
    async with contextlib.AsyncExitStack() as stack:
        if exporter is not None and scraped is not None:
            metrics = metrics_app(config, registry, engine, exporter)
            await stack.enter_async_context(listener(metrics, scraped))
        await stack.enter_async_context(app.lifespan())
        freeze()
        collect_seldom()
        gate.open(app)
        yield


def _metrics_socket(config: Config, stack: contextlib.AsyncExitStack) -> socket.socket | None:
    """Holds the port of metrics, where one is set."""
    port = config.metrics.port
    if port is None or not config.metrics.enabled:
        return None
    return stack.enter_context(bound(config.server.host, port, "metrics.port"))


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first signal that ends the process, and by the second."""
    first, second = asyncio.Event(), asyncio.Event()

    def caught() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, caught)
    return first, second


async def _until(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of the work; None, and the work cancelled, when the event comes first."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
