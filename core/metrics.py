"""Counters and gauges as plain numbers; exporter plugins give them names and formats."""

import msgspec

from .step import FinishReason

__all__ = ("CompletionRecord", "EngineStats", "RequestRecord")

# The reason of a request with several completions is the first of these that one of them has.
_WORST_FIRST: tuple[FinishReason, ...] = ("error", "abort", "length", "stop")


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
        prompt_tokens: prompt tokens computed, or found in the cache, for the first time.
        generated_tokens: tokens emitted.
        corrupted: sequences that ended because their logits were no numbers.
        drafts: rows that verified drafts.
        draft_tokens: drafts verified.
        accepted_tokens: of these, accepted.
        accepted_at: of these, those at each position of their row.
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
    prompt_tokens: int = 0
    generated_tokens: int = 0
    corrupted: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = []


class CompletionRecord(msgspec.Struct, kw_only=True):
    """One completion of a finished request. Times are seconds on time.monotonic's clock.

    Attributes:
        finish_reason: how it ended.
        num_generated: tokens generated.
        queued: seconds in the queue.
        first_token: when its first token arrived, None without any.
        finished: when its last delta arrived.
        token_gaps: seconds between the arrivals of consecutive tokens.
        num_preemptions: times it was sent back to the queue.
    """

    finish_reason: FinishReason
    num_generated: int
    queued: float
    first_token: float | None
    finished: float
    token_gaps: list[float]
    num_preemptions: int = 0


class RequestRecord(msgspec.Struct, kw_only=True):
    """A finished request as observers see it, whatever number of completions it asked for.

    Attributes:
        request_id: the caller's label, or the number it got.
        num_prompt: prompt tokens.
        num_cached: of these, taken from the prefix cache.
        max_tokens: the limit each completion ran under.
        arrival: when it came in, on time.monotonic's clock.
        completions: all n of them.
    """

    request_id: str
    num_prompt: int
    num_cached: int
    max_tokens: int
    arrival: float
    completions: list[CompletionRecord]

    @property
    def finish_reason(self) -> FinishReason:
        """How it ended: the least welcome of its completions' reasons."""
        reasons = {completion.finish_reason for completion in self.completions}
        return next(reason for reason in _WORST_FIRST if reason in reasons)

    @property
    def num_generated(self) -> int:
        """Tokens generated, over all completions."""
        return sum(completion.num_generated for completion in self.completions)

    @property
    def queued(self) -> float:
        """Seconds until the first of its completions left the queue."""
        return min(completion.queued for completion in self.completions)

    @property
    def first_token(self) -> float | None:
        """When the first token of any completion arrived, None without any."""
        times = [c.first_token for c in self.completions if c.first_token is not None]
        return min(times, default=None)

    @property
    def finished(self) -> float:
        """When the last delta of its last completion arrived."""
        return max(completion.finished for completion in self.completions)
