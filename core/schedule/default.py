"""The default scheduler: computed tokens catch up with known ones, within a token budget.

There is no prefill phase and no decode phase. Each step every running sequence may compute the
tokens it knows and has not computed; then waiting ones are admitted while budget, slots and blocks
last. Chunked prefill, prefix hits and preemption by recompute are all this one rule.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from operator import itemgetter

from ..cache.manager import CacheManager
from ..contracts.policy import Policy
from ..contracts.scheduler import Scheduler, SchedulerSettings
from ..errors import InvalidRequest, Overloaded
from ..metrics import EngineStats
from ..request import Request
from ..sequence import Sequence, Status
from ..step import Delta, Newcomer, Outcome, Plan, Row
from .drafting import Drafting
from .intake import has_only_tokens, take_in, take_tokens
from .prompts import PromptShare, chunk
from .roster import Roster

__all__ = ("DefaultScheduler",)

# Share of the pool kept free when admitting beside running sequences, so that they can grow a
# little before somebody must be preempted.
_ADMISSION_RESERVE = 100

# A row's place in the step, the row, whose it is, and of which epoch. Single tokens lead, those
# with most before them first, so that no processor is left with the longest when the others are
# done.
_Planned = tuple[int, Row, Sequence, int]
_place = itemgetter(0)

# Python takes as long to find an enum's member as for the rest of a row's check.
_FINISHED = Status.FINISHED


class DefaultScheduler(Scheduler):
    """Continuous batching over slots and blocks.

    Args:
        settings: limits.
        policy: order of admission and choice of victims.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.cache = CacheManager(
            settings.num_blocks, settings.block_size, prefix_caching=settings.prefix_caching
        )
        self._clock = clock
        self._roster = Roster(policy, settings.max_num_seqs)
        self._in_flight: deque[list[_Planned]] = deque()
        self._step = 0
        # Rows of the planned step that are no plain ones, and plain ones that get a block.
        self._special = self._grown = 0
        self._preemptions = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._corrupted = 0
        self._drafting = Drafting(settings, self.cache, clock)

    def add(self, request: Request) -> None:
        longest = len(request.prompt_token_ids) + request.max_tokens
        limits = self.settings
        fits = min(limits.max_model_len, self.cache.max_tokens)
        if longest > fits:
            raise InvalidRequest(
                f"the prompt has {len(request.prompt_token_ids)} tokens and max_tokens is "
                f"{request.max_tokens}; together at most {fits} fit",
                "max_tokens",
            )
        if not limits.chunked_prefill and longest > limits.max_num_batched_tokens:
            raise InvalidRequest(
                f"{longest} tokens exceed the {limits.max_num_batched_tokens} of one step, and "
                "chunked prefill is off; turn it on or raise max_num_batched_tokens",
                "prompt",
            )
        if len(self._roster.waiting) >= limits.max_waiting:
            raise Overloaded(f"{limits.max_waiting} requests are waiting already; try again later")
        if request.request_id in self._roster.sequences:
            raise InvalidRequest("a request with this id is still running", "request_id")
        self._roster.enqueue(Sequence(request))

    def abort(self, request_id: str) -> Delta | None:
        seq = self._roster.sequences.get(request_id)
        if seq is None:
            return None
        self._finish(seq)
        return Delta(request_id, [], "abort", num_preemptions=seq.num_preemptions)

    def plan(self) -> Plan | None:
        rows: list[_Planned] = []
        newcomers: list[Newcomer] = []
        self._special = self._grown = 0
        suspect = self._roster.suspect()
        if suspect is not None:
            self._plan_alone(suspect, rows, newcomers)
        else:
            self._plan_all(rows, newcomers)
        if not rows:
            return None
        rows.sort(key=_place)
        self._in_flight.append(rows)
        shown = self._drafting.showing.shown
        planned = [row for _, row, _, _ in rows]
        plain, grows = not self._special, self._special + self._grown > 0
        plan = Plan(self._step, newcomers, planned, plain, shown, grows)
        self._step += 1
        self._drafting.ahead = plan
        return plan

    def update(self, plan: Plan, outcome: Outcome) -> list[Delta]:
        deltas: list[Delta] = []
        generated = 0
        flight = self._in_flight.popleft()
        only_tokens = has_only_tokens(outcome)
        for index, (_, row, seq, epoch) in enumerate(flight):
            # What was computed for a sequence that ended or restarted meanwhile is dropped here.
            if seq.status is _FINISHED or seq.epoch != epoch:
                continue
            delta = take_tokens(seq, row, index, outcome) if only_tokens else None
            if delta is None:
                delta = take_in(seq, row, index, outcome)
                if delta is None:
                    continue
                if delta.finish_reason is not None:
                    self._corrupted += delta.finish_reason == "error"
                    self._finish(seq)
                elif delta.token_ids and seq.quarantined:
                    self._roster.clear(seq)
            generated += len(delta.token_ids)
            if row.drafts:
                self._drafting.learn(seq, row, delta)
            deltas.append(delta)
        self._generated_tokens += generated
        self._drafting.measure(plan, outcome, last=not self._roster.running)
        return deltas

    def fail(self, plan: Plan, message: str) -> list[Delta]:
        flight = self._in_flight.popleft()
        affected = [
            seq
            for _, _, seq, epoch in flight
            if seq.status is not Status.FINISHED and seq.epoch == epoch
        ]
        if not affected:
            return []
        # Blocks that the failed step published may hold anything, and others may have read them:
        # everybody starts over, and those who were in the step one by one.
        self.cache.pool.forget_all()
        deltas = []
        if len(affected) == 1:
            deltas.append(self._end_with_error(affected[0], message))
        else:
            for seq in affected:
                self._roster.suspects.append(seq)
                seq.quarantined = True
        restarted = [seq for seq in affected if seq.status is Status.WAITING]
        for seq in list(self._roster.running):
            self._preempt(seq)
            restarted.append(seq)
        for seq in restarted:
            seq.epoch += 1
            seq.num_pending = seq.num_slack = 0
        return deltas

    def has_work(self) -> bool:
        return bool(self._roster.sequences)

    def forget_prefixes(self) -> None:
        self.cache.pool.forget_all()

    def stats(self) -> EngineStats:
        pool = self.cache.pool
        return EngineStats(
            step=self._step,
            running=len(self._roster.running),
            waiting=len(self._roster.waiting),
            blocks_used=pool.num_used,
            blocks_total=pool.num_blocks - 1,
            prefix_queries=self.cache.queries,
            prefix_hits=self.cache.hits,
            preemptions=self._preemptions,
            step_tokens=self._drafting.ahead.num_tokens,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            corrupted=self._corrupted,
            drafts=self._drafting.rows,
            draft_tokens=self._drafting.tried,
            accepted_tokens=sum(self._drafting.accepted_at),
            accepted_at=self._drafting.accepted_at,
        )

    def check(self) -> None:
        self.cache.check(self._roster.sequences.values())
        self._roster.check()

    # Planning

    def _plan_alone(self, seq: Sequence, rows: list[_Planned], newcomers: list[Newcomer]) -> None:
        budget = self.settings.max_num_batched_tokens
        running = self._roster.running
        if seq.status is Status.RUNNING:
            count = min(seq.num_wanted, budget)
            if count > 0 and self._make_room(seq, seq.num_computed + count, 0):
                self._advance(seq, count, rows)
            return
        # Those who proved harmless hold blocks, and do not run before it has.
        while not self._admit(seq, budget, rows, newcomers) and running and not seq.num_pending:
            self._push_out(running[self.policy.victim([other.candidate() for other in running])])

    def _plan_all(self, rows: list[_Planned], newcomers: list[Newcomer]) -> None:
        budget = self.settings.max_num_batched_tokens
        running = self._roster.running
        prompts = PromptShare(running, self.settings)
        preemptions = self._preemptions
        self._drafting.begin(len(running), len(self._roster.waiting), budget)
        index = 0
        while index < len(running) and budget > 0:
            seq = running[index]
            planned = self._decode(seq, rows, budget)
            if planned:
                budget -= planned
                index += 1
                continue
            wanted = seq.num_wanted
            prompt = wanted > 1
            count = min(wanted, budget)
            if prompt:
                count = chunk(seq, *prompts.left(budget))
            if count > 0:
                if not self._make_room(seq, seq.num_computed + count, index):
                    continue
                self._advance(seq, count, rows)
                budget -= count
                if prompt:
                    prompts.take(count)
            index += 1
        waiting = self._roster.waiting
        while waiting and self._preemptions == preemptions:
            left, spare = prompts.left(budget)
            count = self._admit(waiting[0], left, rows, newcomers, spare) if left > 0 else 0
            if count == 0:
                break
            budget -= count
            prompts.take(count)

    def _decode(self, seq: Sequence, rows: list[_Planned], budget: int) -> int:
        """Plan the next token of a sequence that lacks only that, and a block for it if need be.

        ``_advance`` would do the same. With hundreds of sequences nearly every row of every step
        is such a one, and what they cost is what the host costs.

        Returns:
            Tokens planned, with the sequence's drafts; 0 for a sequence of another kind.
        """
        start, size = seq.num_computed, self.cache.block_size
        end, known = start + 1, len(seq.token_ids) + seq.num_pending
        if end <= seq.num_prompt or end != known:
            return 0
        grows = end > len(seq.blocks) * size
        if end >= seq.token_limit or (grows and not self.cache.pool.num_free):
            return 0
        drafting = self._drafting
        if drafting.asks or seq.num_ready or seq.num_slack:
            drafts = drafting.take(seq, end, budget - 1) if seq.num_ready else 0
            propose = drafting.propose(seq, end + drafts) if drafting.asks else 0
            if drafts or propose or seq.num_slack:
                self._plan_row(seq, rows, 1 + drafts, True, drafts, propose)
                return 1 + drafts
            seq.num_ready = 0
        self._grown += grows
        new = self.cache.grow(seq, end) if grows else []
        rows.append((-start, Row(seq.slot, start, 1, new, True), seq, seq.epoch))
        seq.num_computed = end
        seq.num_pending += 1
        if end >= (seq.num_committed + 1) * size:
            self.cache.commit(seq)
        return 1

    def _make_room(self, seq: Sequence, num_tokens: int, index: int) -> bool:
        """Preempt sequences not planned yet until seq can grow; False when it was the victim."""
        while self.cache.missing(seq, num_tokens) > self.cache.pool.num_free:
            rest = self._roster.running[index:]
            victim = rest[self.policy.victim([other.candidate() for other in rest])]
            self._push_out(victim)
            if victim is seq:
                return False
        return True

    def _admit(
        self,
        seq: Sequence,
        budget: int,
        rows: list[_Planned],
        newcomers: list[Newcomer],
        spare: int = 0,
    ) -> int:
        """Give a waiting sequence a slot and its first tokens; how many, 0 if it must wait."""
        # A draw in flight is not among token_ids yet, so the sequence cannot be sent whole.
        if seq.num_pending or not self._roster.has_slot:
            return 0
        self.cache.match(seq)
        wanted = seq.num_wanted
        count = chunk(seq, budget, spare)
        pool = self.cache.pool
        reserve = pool.num_blocks // _ADMISSION_RESERVE if self._roster.running else 0
        missing = self.cache.missing(seq, seq.num_computed + count)
        whole = count == wanted or self.settings.chunked_prefill
        if not count or not whole or missing + reserve > pool.num_free:
            self.cache.release(seq)
            return 0
        self._roster.start(seq)
        self._drafting.showing.enter(seq)
        if seq.first_plan is None:
            seq.first_plan = self._clock()
            seq.num_cached = seq.num_computed
            self.cache.count(seq)
        newcomers.append(seq.newcomer())
        shared = list(seq.blocks)
        row = self._advance(seq, count, rows)
        row.new_blocks = shared + row.new_blocks
        return count

    def _advance(self, seq: Sequence, count: int, rows: list[_Planned]) -> Row:
        """Plan the next count tokens of a sequence whose blocks are to be had."""
        end = seq.num_computed + count
        samples = end == seq.num_known
        propose = self._drafting.propose(seq, end) if samples else 0
        fresh = max(0, min(end, seq.num_prompt) - seq.num_counted)
        seq.num_counted += fresh
        self._prompt_tokens += fresh
        return self._plan_row(seq, rows, count, samples, 0, propose)

    def _plan_row(
        self,
        seq: Sequence,
        rows: list[_Planned],
        count: int,
        samples: bool,
        drafts: int,
        propose: int,
    ) -> Row:
        """Plan the next count tokens of a sequence, drafts among them.

        Where drafts are to be proposed, there are blocks for them as well, so that a speculator
        with a cache of its own can fill it.
        """
        self._special += 1
        start, size = seq.num_computed, self.cache.block_size
        end = start + count
        grows = end + propose > len(seq.blocks) * size
        blocks = self.cache.grow(seq, end + propose) if grows else []
        row = Row(seq.slot, start, count, blocks, samples, drafts, seq.num_slack, propose)
        rows.append((-start if count == 1 else 1, row, seq, seq.epoch))
        seq.num_computed = end
        if samples:
            seq.num_pending += 1 + drafts
        seq.num_slack += drafts
        seq.num_ready = propose
        if len(seq.token_ids) >= (seq.num_committed + 1) * size:
            self.cache.commit(seq)
        return row

    # Leaving

    def _push_out(self, seq: Sequence) -> None:
        self._preempt(seq)
        self._preemptions += 1
        seq.num_preemptions += 1

    def _preempt(self, seq: Sequence) -> None:
        self.cache.release(seq)
        seq.num_ready = 0
        self._roster.stop(seq)
        self._roster.enqueue(seq)

    def _finish(self, seq: Sequence) -> None:
        self.cache.release(seq)
        self._roster.remove(seq)

    def _end_with_error(self, seq: Sequence, message: str) -> Delta:
        self._finish(seq)
        name, times = seq.request.request_id, seq.num_preemptions
        return Delta(name, [], "error", error=message, num_preemptions=times)
