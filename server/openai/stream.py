"""Server-sent events: one encode a chunk, errors as events, the engine let go of at the end."""

from collections.abc import AsyncIterator, Callable

import msgspec
from litestar import Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from ...core.output import StreamDelta
from ..errors import describe, error_body
from .generation import Generation

__all__ = ("Render", "event_stream", "whole")

Render = Callable[[int, StreamDelta], list[msgspec.Struct]]

_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def event_stream(
    generation: Generation,
    render: Render,
    last: Callable[[], msgspec.Struct] | None,
    headers: dict[str, str],
) -> Stream:
    """The response that streams a generation which has started.

    Args:
        generation: started.
        render: a prompt's index and its delta to the chunks they make.
        last: makes a chunk for the end; None for none.
        headers: of the response.
    """
    return Stream(
        _events(generation, render, last),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"} | headers,
        # Runs after a disconnect too, at once, even if it came in the middle of a write: then the
        # generator is suspended between events and would end only when it is collected.
        background=BackgroundTask(_release, generation),
    )


def whole(answer: msgspec.Struct, headers: dict[str, str]) -> Response[bytes]:
    """The response that holds an answer in one piece."""
    return Response(_encode(answer), media_type="application/json", headers=headers)


async def _events(
    generation: Generation, render: Render, last: Callable[[], msgspec.Struct] | None
) -> AsyncIterator[bytes]:
    try:
        async for index, delta in generation:
            data = b"".join(map(_event, render(index, delta)))
            if data:
                yield data
        if last is not None:
            yield _event(last())
    except Exception as error:
        yield _event(error_body(describe(error)))
    yield _DONE


async def _release(generation: Generation) -> None:
    generation.abort()


def _event(chunk: msgspec.Struct) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
