"""Route groups: closed unless they say otherwise, and never an answer that is an internal error.

The group is served alone, behind the server's keys, on the embedded model; requests reach the
application without a socket.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from litestar import Litestar
from msgspec import structs

from ..core.async_llm import AsyncLLM
from ..core.config import CacheConfig, Config, ServerConfig
from ..core.conformance.report import ConformanceError, require
from ..core.contracts.route import RouteGroup
from ..core.errors import QuireError
from ..core.registry import Registry
from .assemble import SCHEMA_PATH, assemble, make_exporter
from .gate import Gate

__all__ = ("check_route",)

Factory = Callable[[Config, Registry, Any], RouteGroup]
_KEY = "the-key-of-this-check"
_BODIES = (b"", b"{", b"[]", b"{}", b'{"prompt": 7, "messages": "x"}', b"\xff", b"[" * 10_000)
_MOST_BYTES = 4000


def check_route(group: Factory) -> None:
    """Serve a group and ask for each of its paths, with and without a key, and with rubbish.

    Args:
        group: the class.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    asyncio.run(_check(group))


async def _check(group: Factory) -> None:
    config = Config(server=ServerConfig(api_keys=(_KEY,)), cache=CacheConfig(num_blocks=256))
    registry = Registry()
    engine = await AsyncLLM.start(config, registry=registry)
    try:
        made: list[RouteGroup] = []

        def remember(*arguments: Any) -> RouteGroup:
            made.append(group(*arguments))
            return made[-1]

        exporter = make_exporter(config, registry, engine)
        alone = structs.replace(engine.config.server, routes=("checked",))
        served = structs.replace(engine.config, server=alone)
        parts = cast(Registry, _OneGroup(remember))
        try:
            app = assemble(served, parts, engine, Gate(), exporter)
        except QuireError as error:
            raise ConformanceError(f"the group cannot be served: {error}") from error
        targets = list(_targets(app))
        require(bool(targets), "the group has no endpoint")
        access = made[0].access
        require(access in ("open", "key"), f"access is {access!r}; it must be 'open' or 'key'")
        broken: ConformanceError | None = None
        async with app.lifespan():
            # Raised in here, it would leave the application wrapped in a group of exceptions.
            try:
                for method, path in targets:
                    await _check_access(app, method, path, is_open=access == "open")
                    await _check_rubbish(app, method, path)
                await engine.shutdown()
                for method, path in targets:
                    await _check_rubbish(app, method, path)
            except ConformanceError as error:
                broken = error
        if broken is not None:
            raise broken
    finally:
        await engine.shutdown()


class _OneGroup:
    """A registry that provides the group under check and nothing else."""

    def __init__(self, group: Factory) -> None:
        self._group = group

    def make(self, kind: str, name: str, *args: Any) -> RouteGroup:
        return self._group(*args)


def _targets(app: Litestar) -> Iterator[tuple[str, str]]:
    """Each method and path of the group, with something in place of the path's parameters."""
    for route in app.routes:
        if route.path.startswith(SCHEMA_PATH):
            continue
        path = re.sub(r"\{[^}]*\}", "1", route.path)
        for method in sorted(getattr(route, "methods", ())):
            if method != "OPTIONS":
                yield method, path


async def _check_access(app: Litestar, method: str, path: str, *, is_open: bool) -> None:
    status, _ = await _ask(app, method, path, b"", key=None)
    require(
        (status == 401) != is_open,
        f"without a key {method} {path} answers {status}, and the group is "
        f"{'open' if is_open else 'closed'}",
    )


async def _check_rubbish(app: Litestar, method: str, path: str) -> None:
    for content in _BODIES if method in ("POST", "PUT", "PATCH") else (b"",):
        status, body = await _ask(app, method, path, content, key=_KEY)
        what = f"{method} {path} with the body {content[:20]!r}"
        require(status != 500, f"{what} is an internal error")
        if status >= 400:
            require(len(body) <= _MOST_BYTES, f"{what} is answered by {len(body)} bytes")


async def _ask(
    app: Litestar, method: str, path: str, content: bytes, *, key: str | None
) -> tuple[int, bytes]:
    headers = [(b"host", b"x"), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(content)).encode()))
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("x", 80),
    }
    sent: list[dict[str, Any]] = []
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(app(cast(Any, scope), receive, send), 60)
    if not sent:
        raise ConformanceError(f"{method} {path} is not answered")
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
