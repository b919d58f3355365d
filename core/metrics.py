"""Counters and gauges as plain numbers; exporter plugins give them names and formats."""

import msgspec

from .step import FinishReason

__all__ = ("EngineStats", "RequestRecord")


class EngineStats(msgspec.Struct, array_like=True, gc=False):
    """The engine after a step. Counters run from the engine's start.

    Attributes:
        step: steps executed.
        running: sequences in slots.
        waiting: requests in the queue.
        blocks_used: blocks some sequence refers to.
        blocks_total: blocks of the pool.
        prefix_queries: prompt tokens looked up in the prefix cache.
        prefix_hits: of these, found.
        preemptions: sequences sent back to the queue.
        step_tokens: tokens computed in the last step.
    """

    step: int = 0
    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    step_tokens: int = 0


class RequestRecord(msgspec.Struct, kw_only=True):
    """A finished request as observers see it. Times are seconds on time.monotonic's clock.

    Attributes:
        request_id: as in the engine.
        finish_reason: how it ended.
        num_prompt: prompt tokens.
        num_cached: of these, taken from the prefix cache.
        num_generated: tokens generated.
        max_tokens: the limit it ran under.
        n: completions the caller asked for.
        arrival: when it came in.
        queued: seconds in the queue.
        first_token: when its first token arrived, None without any.
        finished: when its last delta arrived.
        token_gaps: seconds between the arrivals of consecutive tokens.
    """

    request_id: str
    finish_reason: FinishReason
    num_prompt: int
    num_cached: int
    num_generated: int
    max_tokens: int
    n: int
    arrival: float
    queued: float
    first_token: float | None
    finished: float
    token_gaps: list[float]
