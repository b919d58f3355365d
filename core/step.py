"""What crosses a step: Plan down to the device, Outcome back up, Delta out to the caller.

A Plan is a diff. The device side keeps, for every slot, the tokens, the block table and the
sampling parameters; a plan names slots and carries only what is new. It travels to other ranks
and into a recording as it is: plain numbers, encodable by msgspec.
"""

from typing import Literal

import msgspec

from .request import SamplingParams

__all__ = ("Delta", "FinishReason", "Newcomer", "Outcome", "Plan", "Row", "TokenLogprobs")

FinishReason = Literal["stop", "length", "abort", "error"]


class Newcomer(msgspec.Struct, array_like=True, gc=False):
    """A sequence that enters a slot, whole (again whole after a preemption).

    Attributes:
        slot: row of the device's slot table, owned until the plan that retires it.
        token_ids: prompt and what was emitted so far.
        num_prompt: how many of token_ids are the prompt.
        seed: of the random stream; draw i of the sequence is a function of (seed, i) alone.
        params: of sampling.
        stop_ids: masked until params.min_tokens were emitted.
        bad_word_ids: token sequences never to be completed.
    """

    slot: int
    token_ids: list[int]
    num_prompt: int
    seed: int
    params: SamplingParams
    stop_ids: list[int] = []
    bad_word_ids: list[list[int]] = []


class Row(msgspec.Struct, array_like=True, gc=False):
    """One sequence's share of a step: compute positions [start, start + count).

    Attributes:
        slot: whose.
        start: tokens whose keys and values are in the cache already.
        count: tokens to compute now, drafts included.
        new_blocks: appended to the slot's block table before the step.
        samples: whether the position after the last one is drawn (the row ends at the last token
            known to the device, which may be one that the step before is still drawing).
        drafts: how many of the count, at its end, are drafts that an earlier row had proposed. The
            position after each of them and before the first is drawn; what is drawn after the
            first draft that differs from its draw does not count.
        slack: how many tokens start may be too far on, because drafts are verified in a step that
            still runs; the device knows the true start. 0 where the host does.
        propose: drafts to propose for the slot's next row, once this one has drawn.
    """

    slot: int
    start: int
    count: int
    new_blocks: list[int]
    samples: bool
    drafts: int = 0
    slack: int = 0
    propose: int = 0


class Plan(msgspec.Struct, array_like=True, gc=False):
    """What the scheduler asks of the device in one step.

    Attributes:
        step: counts up from 0.
        newcomers: filled into their slots before anything else.
        rows: in the order of the outcome; rows with count 1 come first, best the longest leading.
        plain: whether every row is known to compute one token and draw behind it, with at most one
            new block, no drafts or slack, and none to propose: hundreds need not be looked at
            again.
        shown: whether a speculator that drafts from hidden states sees the step.
        grows: whether there may be new blocks.
    """

    step: int
    newcomers: list[Newcomer]
    rows: list[Row]
    plain: bool = False
    shown: bool = True
    grows: bool = True

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return len(self.rows) if self.plain else sum(row.count for row in self.rows)


class TokenLogprobs(msgspec.Struct, array_like=True, gc=False):
    """Log-probabilities at one position, before temperature and filters (the model's own).

    Attributes:
        token_id: drawn, or present in the prompt.
        logprob: its natural log-probability.
        rank: 1 for the likeliest token of the vocabulary.
        top_ids: likeliest tokens, best first.
        top_logprobs: theirs.
    """

    token_id: int
    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """What the device answers to a plan.

    Attributes:
        step: of the plan.
        tokens: one list a plan row: the tokens drawn, up to 1 + drafts (empty where the row does
            not sample).
        logprobs: row index -> one entry a drawn token, where the request asks for them.
        prompt_logprobs: row index -> entries for the prompt positions that follow those computed
            in this row, where the request asks for them.
        failures: row index -> why this sequence alone failed (the others are unharmed).
        exhausted: rows whose requests' own settings (allowed tokens, bad words) leave no token to
            draw; such a sequence ends there.
        proposed: row index -> drafts that stand ready for the slot's next row, where the row
            asked for some.
        cold: whether anything launched since the outcome before was captured for the first time,
            or runs without what is yet to be captured for it: how long that took says nothing
            about later steps.
    """

    step: int
    tokens: list[list[int]]
    logprobs: dict[int, list[TokenLogprobs]] = {}
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    failures: dict[int, str] = {}
    exhausted: list[int] = []
    proposed: dict[int, int] = {}
    cold: bool = False


class Delta(msgspec.Struct, array_like=True, gc=False):
    """What a caller learns from one step about one request.

    Attributes:
        request_id: whose.
        token_ids: new ones, in order.
        finish_reason: set in the last delta of a request and in no other.
        stop_reason: the token id that stopped it, when one of stop_ids other than eos did.
        logprobs: one entry a token, when asked for.
        prompt_logprobs: new entries, when asked for.
        num_cached: prompt tokens that came from the prefix cache; in the first delta.
        queued: seconds between arrival and the first step; in the first delta.
        error: the reason behind finish_reason "error".
        num_preemptions: times the sequence was sent back to the queue; in the last delta.
        num_drafts: drafts verified for these tokens.
        num_accepted: of these tokens, how many were drafts.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    num_cached: int = 0
    queued: float = 0.0
    error: str | None = None
    num_preemptions: int = 0
    num_drafts: int = 0
    num_accepted: int = 0
