"""The engine's process, and the socket to it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from . import errors
from .errors import EngineDeadError, QuireError
from .wire import (
    Call,
    EngineInfo,
    Fatal,
    Phase,
    Ready,
    Refused,
    Reply,
    decode_reply,
    encode,
)

__all__ = ("Link",)


class Link:
    """The engine's process and the socket to it; made by ``await Link.open()``."""

    def __init__(
        self,
        folder: tempfile.TemporaryDirectory[str],
        context: zmq.asyncio.Context,
        socket: zmq.asyncio.Socket,
        process: asyncio.subprocess.Process,
    ) -> None:
        self._folder = folder
        self._context = context
        self._socket = socket
        self._process = process
        self._exited = asyncio.create_task(process.wait())

    @classmethod
    async def open(cls) -> Link:
        """Start the process, which waits for ``Start``."""
        # A folder that only this user may enter is what authenticates the other end.
        folder = tempfile.TemporaryDirectory(prefix="quire-")
        address = f"ipc://{Path(folder.name) / 'engine'}"
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PAIR)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(address)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "quire.core.process",
            address,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        return cls(folder, context, socket, process)

    def send(self, call: Call) -> None:
        """Queue a message; it leaves in order, at once when the socket can take it."""
        sending = asyncio.ensure_future(self._socket.send(encode(call)))
        # A send to an engine that has died is dropped; ``receive`` reports the death.
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def receive(self) -> Reply | None:
        """The next reply; None when the process has ended and everything was read."""
        arrival = asyncio.ensure_future(self._socket.recv())
        try:
            await asyncio.wait({arrival, self._exited}, return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                # The process may have spoken just before it ended.
                await asyncio.wait({arrival}, timeout=0.2)
            return decode_reply(arrival.result()) if arrival.done() else None
        finally:
            arrival.cancel()

    async def wait_ready(self, on_phase: Callable[[str, float], None]) -> EngineInfo:
        """Hear of each phase of the start with its seconds, until the engine takes requests.

        Raises:
            QuireError: what the user must change.
            EngineDeadError: when the process cannot go on, or ends without a word.
        """
        while (reply := await self.receive()) is not None:
            if isinstance(reply, Ready):
                return reply.info
            if isinstance(reply, Phase):
                on_phase(reply.name, reply.seconds)
            elif isinstance(reply, Refused):
                raise _refusal(reply)
            elif isinstance(reply, Fatal):
                raise EngineDeadError(reply.message)
        raise EngineDeadError(
            f"the engine's process ended with code {self._process.returncode} before it was ready"
        )

    async def close(self) -> None:
        """End the process, if need be by force, and clean up."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        done, _ = await asyncio.wait({self._exited}, timeout=5)
        if not done:
            self._process.kill()
            await self._exited
        self._socket.close()
        self._context.term()
        self._folder.cleanup()


def _refusal(reply: Refused) -> QuireError:
    """The error of that name, made anew in this process."""
    kind = getattr(errors, reply.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, QuireError)):
        return QuireError(reply.message)
    error: QuireError = kind(reply.message)
    return error
