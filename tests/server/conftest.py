"""A server on a free port around the fake engine, in the test's own event loop."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
import pytest_asyncio

from quire.core.config import Config
from quire.core.contracts.exporter import Exporter
from quire.core.registry import Registry
from quire.server.assemble import assemble, make_exporter
from quire.server.gate import Gate
from quire.server.listen import address, bound, listener
from tests.fakes.engine import FakeEngine


@dataclass
class Server:
    """A running server and everything behind it."""

    url: str
    engine: FakeEngine
    gate: Gate
    exporter: Exporter | None
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI


Start = Callable[..., contextlib.AbstractAsyncContextManager[Server]]


@contextlib.asynccontextmanager
async def _serve(
    config: Config | None = None, registry: Registry | None = None, key: str = "none"
) -> AsyncIterator[Server]:
    config = config or Config()
    registry = registry or Registry()
    engine, gate = FakeEngine(config), Gate()
    exporter = make_exporter(config, registry, engine)
    gate.open(assemble(config, registry, engine, gate, exporter))
    with bound("127.0.0.1", 0, "server.port") as sock:
        url = address("127.0.0.1", sock)
        async with (
            listener(gate, sock),
            httpx.AsyncClient(base_url=url) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        ):
            yield Server(url, engine, gate, exporter, http, client)
            engine.gate.set()


@pytest.fixture
def start() -> Start:
    """Starts a server for as long as a context lasts."""
    return _serve


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Server]:
    """A server with the default configuration, for as long as there are tests."""
    async with _serve() as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The shared server with its engine as new; a test must leave nothing running."""
    yield shared
    left = set(shared.engine.running)
    shared.engine.reset()
    shared.gate.phase = "serving"
    assert not left


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all tests of the room, so that they can share a server."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture
def configure() -> Callable[..., Config]:
    """A configuration from nested keywords, such as ``server={"api_keys": ("k",)}``."""

    def make(**sections: object) -> Config:
        return msgspec.convert(sections, Config)

    return make
