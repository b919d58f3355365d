"""Taking in what a step drew for one sequence."""

from __future__ import annotations

from ..sequence import Sequence
from ..step import Delta, FinishReason, Outcome, Row, TokenLogprobs

__all__ = ("take_in",)


def take_in(seq: Sequence, row: Row, index: int, outcome: Outcome) -> Delta | None:
    """Append the row's tokens to the sequence, up to its end.

    Args:
        seq: alive, of the epoch the row was planned in.
        row: what was computed.
        index: of the row in the plan.
        outcome: of the step.

    Returns:
        What the caller learns, with finish_reason when the sequence has ended; None for a row
        that only filled the cache.
    """
    first = len(seq.token_ids) == seq.num_prompt
    if row.samples:
        seq.num_pending -= 1
    drawn = outcome.tokens[index]
    reason: FinishReason | None = "stop" if index in outcome.exhausted else None
    kept = 0
    for token in drawn:
        seq.token_ids.append(token)
        kept += 1
        reason = _ends(seq, token)
        if reason is not None:
            break
    prompt_logprobs = _news(seq, row, index, outcome)
    if not kept and not prompt_logprobs and reason is None:
        return None
    delta = Delta(seq.request.request_id, drawn[:kept], reason, prompt_logprobs=prompt_logprobs)
    if reason is not None:
        delta.num_preemptions = seq.num_preemptions
    if index in outcome.logprobs:
        delta.logprobs = outcome.logprobs[index][:kept]
    last = drawn[kept - 1] if kept else -1
    if reason == "stop" and last in (seq.request.params.stop_token_ids or ()):
        delta.stop_reason = last
    if first and seq.first_plan is not None:
        delta.num_cached = seq.num_cached
        delta.queued = max(0.0, seq.first_plan - seq.request.arrival)
    return delta


def _ends(seq: Sequence, token: int) -> FinishReason | None:
    emitted = len(seq.token_ids) - seq.num_prompt
    if token in seq.stop_ids and emitted > seq.request.params.min_tokens:
        return "stop"
    return "length" if len(seq.token_ids) >= seq.token_limit else None


def _news(seq: Sequence, row: Row, index: int, outcome: Outcome) -> list[TokenLogprobs] | None:
    """Prompt log-probabilities not delivered yet; a recomputed prompt brings them again."""
    entries = outcome.prompt_logprobs.get(index)
    if not entries:
        return None
    fresh = entries[max(0, seq.num_prompt_logprobs - row.start) :]
    seq.num_prompt_logprobs += len(fresh)
    return fresh or None
