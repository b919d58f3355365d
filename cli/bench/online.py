"""A workload against an OpenAI-compatible server, as its clients see it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ...core.errors import QuireError
from ..remote import Remote
from .report import Sample
from .workloads import Workload

__all__ = ("lag", "load")

# Seconds between two looks at how late the client is.
_LOOK_EVERY = 0.005


async def load(
    remote: Remote,
    model: str,
    workload: Workload,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    on_done: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Run a workload through POST /v1/completions, streamed, prompts as token ids.

    Args:
        remote: the server.
        model: as the server calls it.
        workload: what to ask.
        concurrency: requests in flight at once; None for no limit.
        rate: arrivals a second, as a Poisson process; None sends without waiting.
        seed: of the arrivals.
        on_done: called after each request.

    Returns:
        A sample a request, in the workload's order; times of ``time.perf_counter``.
    """
    gate = asyncio.Semaphore(concurrency or len(workload.prompts))
    rng = random.Random(seed)

    async def one(prompt: list[int], output: int) -> Sample:
        async with gate:
            sample = await _ask(remote, model, prompt, output)
        on_done()
        return sample

    begin = time.perf_counter()
    due = 0.0
    tasks = []
    async with asyncio.TaskGroup() as group:
        for prompt, output in zip(workload.prompts, workload.outputs, strict=True):
            tasks.append(group.create_task(one(prompt, output)))
            if rate is not None:
                due += rng.expovariate(rate)
                await asyncio.sleep(begin + due - time.perf_counter())
    return [task.result() for task in tasks]


@asynccontextmanager
async def lag() -> AsyncIterator[list[float]]:
    """Seconds by which this client's event loop came too late, sampled while the block runs.

    A piece that arrives meanwhile is seen so much later than it came.
    """
    found: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + _LOOK_EVERY
            await asyncio.sleep(_LOOK_EVERY)
            found.append(max(0.0, time.perf_counter() - due))

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()


async def _ask(remote: Remote, model: str, prompt: list[int], output: int) -> Sample:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": output,
        "min_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sample = Sample(time.perf_counter(), len(prompt), output)
    tokens = 0
    try:
        async for event in remote.events("/v1/completions", body):
            if event.get("choices"):
                sample.arrivals.append(time.perf_counter())
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    except QuireError as error:
        sample.error = str(error)
    sample.counts = _spread(tokens, len(sample.arrivals))
    return sample


def _spread(tokens: int, pieces: int) -> list[int]:
    """Tokens a piece: the protocol gives only their sum, so the surplus goes to the last ones."""
    if not pieces:
        return []
    each, surplus = divmod(tokens, pieces)
    return [each + (index >= pieces - surplus) for index in range(pieces)]
