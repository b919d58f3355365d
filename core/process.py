"""The engine in a process of its own: ``python -m quire.core.process ADDRESS``.

It talks to its parent over one socket in the messages of ``core.wire``, and ends with it: the
parent holds the other end of this process's standard input, which the system closes when the
parent is gone, however it went.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

import zmq

from .engine import Engine
from .errors import EngineDeadError, InvalidRequest, Overloaded, QuireError
from .memory import collect_seldom
from .registry import Registry
from .request import Request
from .step import Delta
from .wire import (
    Abort,
    Call,
    Fatal,
    Phase,
    Ready,
    Refused,
    Rejected,
    Reply,
    Start,
    Step,
    Submit,
    decode_call,
    encode,
)

__all__ = ("main",)

logger = logging.getLogger(__name__)

# Seconds between integrity checks of an idle engine.
_CHECK_EVERY = 10.0


class _Server:
    """The engine's side of the socket."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._last_check = time.monotonic()

    def send(self, reply: Reply) -> None:
        self.socket.send(encode(reply))

    def receive(self, *, block: bool) -> Call | None:
        try:
            return decode_call(self.socket.recv(0 if block else zmq.NOBLOCK))
        except zmq.Again:
            return None

    def serve(self) -> None:
        """Start the engine as the first message says, then step until killed.

        Raises:
            EngineDeadError: when the engine cannot go on.
        """
        start = self.receive(block=True)
        if not isinstance(start, Start):
            raise EngineDeadError("the first message must be Start")
        self.send(Phase("process", time.monotonic() - start.spawned))
        registry = Registry(start.config.plugins.load)
        engine = Engine.start(
            start.config, registry, lambda name, seconds: self.send(Phase(name, seconds))
        )
        collect_seldom()
        self.send(Ready(engine.info))
        told = 0
        while True:
            self._take_calls(engine)
            deltas = engine.step()
            stats = engine.stats()
            # A step without news for callers, such as a piece of a long prompt, moves the counters.
            if deltas or stats.step > told:
                self.send(Step(deltas, stats))
                told = stats.step

    def _take_calls(self, engine: Engine) -> None:
        """Everything that has arrived; waits when there is nothing else to do."""
        call = self.receive(block=False)
        if not engine.has_work() and call is None:
            self._check_idle(engine)
            while call is None and engine.idle():
                call = self.receive(block=False)
            call = call or self.receive(block=True)
        ended: list[Delta] = []
        while call is not None:
            if isinstance(call, Submit):
                for request in call.requests:
                    self._submit(engine, request)
            elif isinstance(call, Abort):
                ended += filter(None, map(engine.abort, call.request_ids))
            call = self.receive(block=False)
        if ended:
            self.send(Step(ended, engine.stats()))

    def _submit(self, engine: Engine, request: Request) -> None:
        try:
            engine.add(request)
        except InvalidRequest as error:
            self.send(Rejected(request.request_id, "InvalidRequest", str(error), error.param))
        except Overloaded as error:
            self.send(Rejected(request.request_id, "Overloaded", str(error)))
        except Exception as error:
            logger.exception("a request could not be queued")
            reason = f"the request could not be queued: {type(error).__name__}"
            lost = Delta(request.request_id, [], "error", error=reason)
            self.send(Step([lost], engine.stats()))

    def _check_idle(self, engine: Engine) -> None:
        now = time.monotonic()
        if now - self._last_check > _CHECK_EVERY:
            self._last_check = now
            engine.scheduler.check()


def _end_with_parent() -> None:
    """Leave at once when standard input closes: nobody is there to answer any more."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> None:
    """Serve one parent. The exit code is 0 only when the parent left first."""
    # Ctrl-C in a terminal reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    _end_with_parent()
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 2000)
    socket.connect(sys.argv[1])
    server = _Server(socket)
    code = 1
    try:
        server.serve()
    except QuireError as error:
        server.send(Refused(type(error).__name__, str(error)))
        code = 2
    except Exception as error:
        logger.exception("the engine stopped")
        server.send(Fatal(f"the engine stopped: {type(error).__name__}"))
    socket.close()
    context.term()
    sys.exit(code)


if __name__ == "__main__":
    main()
