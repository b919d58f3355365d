"""A request's life in the engine."""

from __future__ import annotations

from enum import Enum

from .contracts.policy import Candidate
from .request import Request
from .schedule.acceptance import Acceptance
from .step import Newcomer

__all__ = ("Sequence", "Status")


class Status(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """One request with what has become of it. Only the scheduler changes it.

    Three lengths say everything about its tokens, each counted from the start of the prompt:

        num_computed <= num_tokens <= num_known

    computed: keys and values are in the cache, or a launched step is writing them.
    tokens:   token ids the host has seen (prompt and emitted).
    known:    tokens, and those that launched steps are still drawing; their ids are on the device.

    While drafts are verified, the first and the last of them are bounds from above: each may be up
    to num_slack less, and an update takes back what was rejected.

    Attributes:
        request: what was asked for.
        token_ids: the tokens the host has seen.
        num_prompt: how many of them are the prompt.
        num_computed: see above.
        num_pending: known minus tokens.
        num_slack: drafts in launched steps.
        num_ready: drafts that stand on the device for the next row, at most.
        num_valid: of these, how many a speculator proposed; the others are filling.
        drafting: what is known of how well its drafts do.
        blocks: its block table.
        block_hashes: chained hashes of the leading full blocks of token_ids, as far as computed.
        num_committed: leading blocks that the prefix index may know.
        slot: row of the device's slot table while running, else -1.
        epoch: counts restarts; what a step launched in an earlier epoch brings is dropped.
        quarantined: it was in a step that failed, and runs alone until it draws a token.
        watch: how often showing steps had begun when it last got a slot; see ``Showing``.
        num_cached: prompt tokens found in the prefix cache at first admission.
        num_prompt_logprobs: prompt log-probabilities delivered.
        num_counted: prompt tokens the statistics have counted; a recomputed prompt counts once.
        num_preemptions: times it was sent back to the queue.
        first_plan: when it was first planned, on time.monotonic's clock; None before.
        order: of arrival, from 1.
        rank: the policy's, and order behind it.
        stop_ids: tokens that end it.
        token_limit: most tokens it may have, prompt included.
    """

    __slots__ = (
        "block_hashes",
        "blocks",
        "drafting",
        "epoch",
        "first_plan",
        "num_cached",
        "num_committed",
        "num_computed",
        "num_counted",
        "num_pending",
        "num_preemptions",
        "num_prompt",
        "num_prompt_logprobs",
        "num_ready",
        "num_slack",
        "num_valid",
        "order",
        "quarantined",
        "rank",
        "request",
        "slot",
        "status",
        "stop_ids",
        "token_ids",
        "token_limit",
        "watch",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.token_limit = self.num_prompt + request.max_tokens
        self.stop_ids = frozenset(request.stop_ids)
        self.num_computed = 0
        self.num_pending = 0
        self.num_slack = 0
        self.num_ready = 0
        self.num_valid = 0
        self.drafting = Acceptance()
        self.blocks: list[int] = []
        self.block_hashes: list[bytes] = []
        self.num_committed = 0
        self.slot = -1
        self.epoch = 0
        self.quarantined = False
        self.watch = 0
        self.num_cached = 0
        self.num_prompt_logprobs = 0
        self.num_counted = 0
        self.num_preemptions = 0
        self.first_plan: float | None = None
        self.status = Status.WAITING
        self.order = 0
        self.rank: tuple[float, ...] = ()

    @property
    def num_known(self) -> int:
        """Tokens, and draws in flight."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_wanted(self) -> int:
        """Tokens to compute before there is nothing more to do until an update.

        The last token the limit allows is drawn but never computed.
        """
        return min(self.num_known, self.token_limit - 1) - self.num_computed

    def candidate(self) -> Candidate:
        """What a policy may know."""
        request = self.request
        return Candidate(
            request.request_id,
            request.priority,
            request.arrival,
            len(self.token_ids),
            self.token_limit - len(self.token_ids),
            request.cache_salt,
        )

    def newcomer(self) -> Newcomer:
        """What the device must know of it, in a slot."""
        request = self.request
        return Newcomer(
            self.slot,
            list(self.token_ids),
            self.num_prompt,
            request.seed,
            request.params,
            request.stop_ids,
            request.bad_word_ids,
        )
