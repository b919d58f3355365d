"""Sockets and uvicorn: one listener is one application on one port."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from ..core.errors import ConfigError
from .bounds import BoundedProtocol

__all__ = ("FLUSH_SECONDS", "address", "bound", "listener")

# For the last bytes to reach their readers once nothing is in flight, or nothing may be.
FLUSH_SECONDS = 5


@contextlib.contextmanager
def bound(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A socket that holds the port, before anything slow begins.

    Args:
        host: name or address.
        port: 0 takes a free one.
        setting: where the port stands in the configuration.

    Raises:
        ConfigError: when it cannot be had.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"server.host {host!r} is no address of this machine") from error
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on port {port} of {host} ({os.strerror(error.errno or 0)}); "
                f"choose another {setting}"
            ) from error
        yield sock


def address(host: str, sock: socket.socket) -> str:
    """The URL under which this machine reaches the socket."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"


@contextlib.asynccontextmanager
async def listener(app: Any, sock: socket.socket) -> AsyncIterator[None]:
    """Serve the ASGI application on the socket until the context ends.

    At the end responses under way have ``FLUSH_SECONDS`` to finish.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=FLUSH_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await server.listening.wait()
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and leaves signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
