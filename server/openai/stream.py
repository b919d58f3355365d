"""Server-sent events: one encode a chunk, errors as events, the engine let go of at the end."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec
from litestar import Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from ...core.output import RequestOutput, StreamDelta
from ..errors import describe, error_body
from .generation import Generation
from .protocol import GenerationRequest

__all__ = ("Answer", "respond")

_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class Answer(Protocol):
    """What an endpoint makes of a generation."""

    def chunks(self, index: int, delta: StreamDelta, /) -> list[msgspec.Struct]:
        """The chunks that a prompt's delta makes."""
        ...

    def last(self) -> msgspec.Struct:
        """The chunk with what was used."""
        ...

    def whole(self, outputs: list[RequestOutput]) -> msgspec.Struct:
        """The answer in one piece, of the prompts' outputs."""
        ...


async def respond(
    generation: Generation, answer: Answer, request: GenerationRequest
) -> Response[Any]:
    """Start a generation and answer with it, in one piece or as a stream.

    Raises:
        QuireError: whatever the engine says to the request.
        APIError: when generation failed.
    """
    headers = {"x-request-id": generation.request_id}
    await generation.start()
    if not request.stream:
        output = answer.whole(await generation.collect())
        return Response(_encode(output), media_type="application/json", headers=headers)
    return Stream(
        _events(generation, answer, answer.last if request.include_usage else None),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"} | headers,
        # Runs after a disconnect too, at once, even if it came in the middle of a write: then the
        # generator is suspended between events and would end only when it is collected.
        background=BackgroundTask(_release, generation),
    )


async def _events(
    generation: Generation, answer: Answer, last: Callable[[], msgspec.Struct] | None
) -> AsyncIterator[bytes]:
    try:
        async for index, delta in generation:
            data = b"".join(map(_event, answer.chunks(index, delta)))
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
