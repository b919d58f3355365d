"""The outermost layer: who is let in while the server starts, serves, drains."""

import asyncio
from typing import Literal

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from .errors import APIError, error_body, refused

__all__ = ("Gate", "Phase")

Phase = Literal["starting", "serving", "draining"]

_STARTING = refused("the engine is still starting", "engine_starting", retry_after=5)
_DRAINING = refused("the server is shutting down and takes no more", "draining", retry_after=5)


class Gate:
    """Stands before the application, listens before it exists, and counts what is in flight.

    While draining, only reads are let in, so that health and metrics can be looked at to the end.

    Attributes:
        phase: of the server's life.
    """

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self._app: ASGIApp | None = None
        self._inflight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, app: ASGIApp) -> None:
        """Let everybody in to this application."""
        self._app = app
        self.phase = "serving"

    def drain(self) -> None:
        """Let no more work in."""
        self.phase = "draining"

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI defines it; the listener passes on nothing else."""
        refusal = self._refusal(scope)
        if self._app is None or refusal is not None:
            await _refuse(refusal or _STARTING, send)
            return
        self._inflight += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._inflight -= 1
            if not self._inflight:
                self._idle.set()

    def _refusal(self, scope: Scope) -> APIError | None:
        if self.phase == "starting":
            return _STARTING
        reads = scope.get("method") in ("GET", "HEAD", "OPTIONS")
        return _DRAINING if self.phase == "draining" and not reads else None


async def _refuse(refusal: APIError, send: Send) -> None:
    body = msgspec.json.encode(error_body(refusal))
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
