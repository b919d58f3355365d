"""Taking in what a step drew for one sequence."""

from __future__ import annotations

from ..sequence import Sequence, Status
from ..step import Delta, FinishReason, Outcome, Row, TokenLogprobs

__all__ = ("has_only_tokens", "take_in", "take_tokens")

# Python takes as long to find an enum's member as for all else that is taken back.
_RUNNING = Status.RUNNING


def has_only_tokens(outcome: Outcome) -> bool:
    """Whether a step brought nothing else, but for drafts."""
    return not (
        outcome.failures or outcome.exhausted or outcome.logprobs or outcome.prompt_logprobs
    )


def take_tokens(seq: Sequence, row: Row, index: int, outcome: Outcome) -> Delta | None:
    """Append the row's tokens to a sequence that has some already and goes on behind them.

    ``take_in`` would do the same. With hundreds of sequences nearly every row of every step is such
    a one, and what they cost is what the host costs.

    Args:
        seq: alive, of the epoch the row was planned in.
        row: what was computed.
        index: of the row in the plan.
        outcome: of a step that brought nothing but tokens and drafts.

    Returns:
        What the caller learns; None, and nothing is done, for a row or sequence of another kind.
    """
    drawn, tokens = outcome.tokens[index], seq.token_ids
    made, count = len(drawn), len(tokens)
    if not made or count <= seq.num_prompt or seq.quarantined:
        return None
    if count + made >= seq.token_limit or not seq.stop_ids.isdisjoint(drawn):
        return None
    tokens += drawn
    delta = Delta(seq.request.request_id, drawn)
    drafts = row.drafts
    if drafts:
        _take_back(seq, row, made)
        # Calling min would take longer than all else here.
        verified = drafts if drafts < seq.num_valid else seq.num_valid
        delta.num_drafts = verified
        delta.num_accepted = made - 1 if made <= verified else verified
    else:
        seq.num_pending -= 1
    if row.propose or seq.num_valid or seq.num_ready:
        _note_drafts(seq, row, outcome.proposed.get(index, 0))
    return delta


def take_in(seq: Sequence, row: Row, index: int, outcome: Outcome) -> Delta | None:
    """Append the row's tokens to the sequence, up to its end.

    Args:
        seq: alive, of the epoch the row was planned in.
        row: what was computed.
        index: of the row in the plan.
        outcome: of the step.

    Returns:
        What the caller learns, with finish_reason when the sequence has ended, as it does where
        its row failed; None for a row that only filled the cache.
    """
    first = len(seq.token_ids) == seq.num_prompt
    drawn = outcome.tokens[index]
    if row.samples:
        _take_back(seq, row, len(drawn))
    kept, reason = _append(seq, drawn)
    if reason is None and index in outcome.failures:
        reason = "error"
    elif reason is None and index in outcome.exhausted:
        reason = "stop"
    prompt_logprobs = _news(seq, row, index, outcome)
    if not kept and not prompt_logprobs and reason is None:
        return None
    delta = Delta(seq.request.request_id, drawn[:kept], reason, prompt_logprobs=prompt_logprobs)
    if reason is not None:
        delta.num_preemptions = seq.num_preemptions
    if reason == "error":
        delta.error = outcome.failures[index]
    if row.drafts:
        delta.num_drafts = min(row.drafts, seq.num_valid)
        delta.num_accepted = min(kept, _accepted(row, outcome, index), delta.num_drafts)
    _note_drafts(seq, row, outcome.proposed.get(index, 0))
    if index in outcome.logprobs:
        delta.logprobs = outcome.logprobs[index][:kept]
    last = drawn[kept - 1] if kept else -1
    if reason == "stop" and last in (seq.request.params.stop_token_ids or ()):
        delta.stop_reason = last
    if first and seq.first_plan is not None:
        delta.num_cached = seq.num_cached
        delta.queued = max(0.0, seq.first_plan - seq.request.arrival)
    return delta


def _accepted(row: Row, outcome: Outcome, index: int) -> int:
    """Drafts that were accepted; after the last of them one more token is drawn, if any can be."""
    drawn = len(outcome.tokens[index])
    ended = index in outcome.exhausted or index in outcome.failures
    return min(row.drafts, drawn if ended else max(0, drawn - 1))


def _take_back(seq: Sequence, row: Row, drawn: int) -> None:
    """The row has drawn fewer tokens than were planned, and computed as many in vain."""
    drafts = row.drafts
    seq.num_pending -= 1 + drafts
    seq.num_slack -= drafts
    if seq.status is _RUNNING:
        seq.num_computed -= 1 + drafts - drawn if drawn else drafts


def _note_drafts(seq: Sequence, row: Row, proposed: int) -> None:
    """So many drafts stand ready for the sequence's next row."""
    seq.num_valid = proposed
    if row.propose:
        seq.drafting.sought(found=proposed > 0)
    if seq.num_ready > proposed and not seq.num_pending:
        seq.num_ready = proposed


def _append(seq: Sequence, drawn: list[int]) -> tuple[int, FinishReason | None]:
    """Append tokens up to the sequence's end: how many, and what it ends for."""
    tokens = seq.token_ids
    if len(tokens) + len(drawn) < seq.token_limit and seq.stop_ids.isdisjoint(drawn):
        tokens += drawn
        return len(drawn), None
    for kept, token in enumerate(drawn, 1):
        tokens.append(token)
        reason = _ends(seq, token)
        if reason is not None:
            return kept, reason
    return len(drawn), None


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
