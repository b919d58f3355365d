"""Waiting for what has no event to wait for."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Let the event loop run until the condition holds; TimeoutError when it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - states of a server, not of this loop
            await asyncio.sleep(0)
