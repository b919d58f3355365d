"""The default scheduler against a device that notices every misused block."""

import itertools
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.cache import manager
from quire.core.cache.pool import chain_hash
from quire.core.conformance.device import FakeDevice, FakePending, expected
from quire.core.contracts.scheduler import SchedulerSettings
from quire.core.errors import InvalidRequest, Overloaded
from quire.core.request import Request, SamplingParams
from quire.core.schedule import showing
from quire.core.schedule.default import DefaultScheduler
from quire.core.schedule.drafting import Drafting
from quire.core.sequence import Sequence
from quire.core.step import Delta, Outcome, Plan
from quire.plugins.policies.fcfs import FirstComeFirstServed
from quire.plugins.policies.priority import ByPriority


def make_settings(**changes: object) -> SchedulerSettings:
    values = {
        "num_blocks": 12,
        "block_size": 4,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_model_len": 40,
    }
    return SchedulerSettings(**(values | changes))  # type: ignore[arg-type]


def make_request(name: str, prompt: list[int], max_tokens: int, **changes: object) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=max_tokens),
        seed=0,
        max_tokens=max_tokens,
        **changes,  # type: ignore[arg-type]
    )


class Loop:
    """The engine's loop around a scheduler and a fake device."""

    def __init__(self, scheduler: DefaultScheduler, device: FakeDevice, *, overlap: bool) -> None:
        self.scheduler = scheduler
        self.device = device
        self.depth = int(overlap)
        self.in_flight: deque[tuple[Plan, FakePending]] = deque()
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}

    def step(self) -> None:
        plan = self.scheduler.plan()
        if plan is not None:
            assert plan.num_tokens <= self.scheduler.settings.max_num_batched_tokens
            self.in_flight.append((plan, self.device.execute(plan)))
        while len(self.in_flight) > (0 if plan is None else self.depth):
            self.take_in(*self.in_flight.popleft())
        self.scheduler.check()

    def take_in(self, plan: Plan, pending: FakePending) -> None:
        try:
            deltas = self.scheduler.update(plan, pending.wait())
        except ZeroDivisionError as error:
            deltas = self.scheduler.fail(plan, str(error))
        for delta in deltas:
            self.hear(delta)

    def hear(self, delta: Delta) -> None:
        assert delta.request_id not in self.reasons
        self.tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
        if delta.finish_reason:
            self.reasons[delta.request_id] = delta.finish_reason

    def drain(self, most: int = 5000) -> None:
        for _ in range(most):
            if not self.scheduler.has_work() and not self.in_flight:
                return
            self.step()
        raise AssertionError("requests never end")


@pytest.fixture(scope="module")
def often_unseen():
    """Steps stop being shown after few in which nobody wants drafts, and for few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(showing, "_PATIENCE", 2)
        patch.setattr(showing, "_FIRST_REST", 2)
        yield


requests = st.lists(
    st.tuples(
        st.integers(1, 24),  # prompt tokens
        st.integers(1, 12),  # max_tokens
        st.integers(0, 3),  # shared prefix family
        st.integers(-2, 2),  # priority
        st.sampled_from(["", "", "tenant"]),
        st.integers(0, 20),  # step of arrival
        st.one_of(st.none(), st.none(), st.integers(0, 30)),  # step of abort
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(
    requests=requests,
    num_blocks=st.integers(11, 40),
    budget=st.integers(1, 40),
    slots=st.integers(1, 6),
    overlap=st.booleans(),
    prefix_caching=st.booleans(),
    by_priority=st.booleans(),
    drafts=st.integers(0, 5),
    adaptive=st.booleans(),
    watches=st.booleans(),
)
def test_any_mix_ends_right_and_leaks_nothing(
    requests,
    num_blocks,
    budget,
    slots,
    overlap,
    prefix_caching,
    by_priority,
    drafts,
    adaptive,
    watches,
    often_unseen,
) -> None:
    scheduler = DefaultScheduler(
        make_settings(
            num_blocks=num_blocks,
            max_num_batched_tokens=budget,
            max_num_seqs=slots,
            prefix_caching=prefix_caching,
            max_drafts=drafts,
            max_draws=20,
            adaptive=adaptive,
            watches=watches,
        ),
        ByPriority() if by_priority else FirstComeFirstServed(),
    )
    loop = Loop(scheduler, FakeDevice(4), overlap=overlap)
    prompts = {}
    for step in range(32):
        for index, (length, limit, family, priority, salt, arrival, abort) in enumerate(requests):
            if arrival == step:
                prompt = [family + 1] * max(0, length - 2) + [index, 9][: min(length, 2)]
                prompts[index] = (prompt, limit)
                scheduler.add(
                    make_request(
                        str(index),
                        prompt,
                        limit,
                        priority=priority,
                        cache_salt=salt,
                        arrival=float(arrival),
                        stop_ids=[7],
                    )
                )
            if abort == step and (last := scheduler.abort(str(index))) is not None:
                loop.hear(last)
        loop.step()
    loop.drain()
    for index, (prompt, limit) in prompts.items():
        wanted = expected(prompt, limit, (7,))
        got = loop.tokens[str(index)]
        if loop.reasons[str(index)] == "abort":
            assert got == wanted[: len(got)]
        else:
            assert got == wanted
            assert loop.reasons[str(index)] == ("stop" if wanted[-1] == 7 else "length")
    assert scheduler.stats().blocks_used == 0


@settings(max_examples=80, deadline=None)
@given(
    bad=st.sets(st.integers(0, 7), max_size=3),
    overlap=st.booleans(),
    after=st.integers(1, 20),
    num_blocks=st.integers(12, 30),
    drafts=st.integers(0, 5),
)
def test_a_request_that_breaks_steps_dies_alone(bad, overlap, after, num_blocks, drafts) -> None:
    limits = make_settings(num_blocks=num_blocks, max_drafts=drafts, max_draws=20, adaptive=False)
    scheduler = DefaultScheduler(limits, FirstComeFirstServed())
    prompts = {index: [1, 2, 3, 4, 5 + index % 2, index] for index in range(8)}
    owners: dict[int, int] = {}

    def fault(plan: Plan) -> None:
        for newcomer in plan.newcomers:
            owners[newcomer.slot] = newcomer.token_ids[5]
        for row in plan.rows:
            if owners[row.slot] in bad and row.start + row.count >= after:
                raise ZeroDivisionError("planted")

    loop = Loop(scheduler, FakeDevice(4, fault), overlap=overlap)
    for index, prompt in prompts.items():
        scheduler.add(make_request(str(index), prompt, 10))
    loop.drain()
    for index, prompt in prompts.items():
        wanted = expected(prompt, 10)
        got = loop.tokens[str(index)]
        if index in bad and after <= 15:
            assert loop.reasons[str(index)] == "error"
            assert got == wanted[: len(got)]
        else:
            assert loop.reasons[str(index)] == "length"
            assert got == wanted
    assert scheduler.stats().blocks_used == 0


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("num_blocks", [16, 60])
def test_who_has_not_seen_every_step_is_not_asked_for_drafts(
    overlap, num_blocks, often_unseen, monkeypatch
) -> None:
    """While steps are shown at times; the device notices who is asked."""
    turns = itertools.count()

    def choose(self: Drafting, seq: Sequence) -> tuple[int, bool]:
        return (0, False) if next(turns) % 45 >= 33 else (3, True)

    monkeypatch.setattr(Drafting, "_choose", choose)
    limits = make_settings(num_blocks=num_blocks, max_drafts=3, max_draws=20, watches=True)
    ticks = itertools.count()
    scheduler = DefaultScheduler(limits, FirstComeFirstServed(), lambda: next(ticks) / 100)
    shown: list[bool] = []

    def note(plan: Plan) -> None:
        shown.append(plan.shown)
        if len(shown) == 100:
            raise ZeroDivisionError("planted")

    loop = Loop(scheduler, FakeDevice(4, note), overlap=overlap)
    for index in range(24):
        scheduler.add(make_request(str(index), [index, 5, 6, 7, 8], 20 + index % 3))
        for _ in range(8):
            loop.step()
    assert scheduler.abort("23") is not None
    loop.drain()
    for index in range(23):
        assert loop.tokens[str(index)] == expected([index, 5, 6, 7, 8], 20 + index % 3)
    stats = scheduler.stats()
    assert stats.drafts > 20 and stats.accepted_tokens > 10
    assert (stats.preemptions > 0) == (num_blocks == 16)
    assert 20 < sum(shown) < len(shown) - 20


def test_a_single_failed_row_ends_one_request() -> None:
    scheduler = DefaultScheduler(make_settings(), FirstComeFirstServed())
    for index in range(2):
        scheduler.add(make_request(str(index), [index, 1, 2], 4))
    plan = scheduler.plan()
    assert plan is not None
    deltas = scheduler.update(plan, Outcome(0, [[], [5]], failures={0: "not a number"}))
    assert [(d.request_id, d.finish_reason, d.error) for d in deltas] == [
        ("0", "error", "not a number"),
        ("1", None, None),
    ]
    scheduler.check()


def test_warm_prefix_gives_the_same_tokens_and_counts_hits() -> None:
    scheduler = DefaultScheduler(make_settings(num_blocks=30), FirstComeFirstServed())
    loop = Loop(scheduler, FakeDevice(4), overlap=False)
    prompt = list(range(17))
    for name in ("cold", "warm"):
        scheduler.add(make_request(name, prompt, 6))
        loop.drain()
    assert loop.tokens["warm"] == loop.tokens["cold"] == expected(prompt, 6)
    assert scheduler.stats().prefix_hits == 16
    assert scheduler.stats().prefix_queries == 34


def test_salts_do_not_share() -> None:
    scheduler = DefaultScheduler(make_settings(num_blocks=30), FirstComeFirstServed())
    loop = Loop(scheduler, FakeDevice(4), overlap=False)
    for salt in ("a", "b"):
        scheduler.add(make_request(salt, list(range(17)), 2, cache_salt=salt))
        loop.drain()
    assert scheduler.stats().prefix_hits == 0


def test_rows_of_one_step_share_a_prefix_computed_in_it() -> None:
    scheduler = DefaultScheduler(
        make_settings(num_blocks=30, max_num_batched_tokens=64), FirstComeFirstServed()
    )
    for name in "ab":
        scheduler.add(make_request(name, list(range(17)), 2))
    plan = scheduler.plan()
    assert plan is not None
    assert sorted(row.count for row in plan.rows) == [1, 17]
    FakeDevice(4).execute(plan)


def test_a_prompt_that_waits_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []

    def count(parent: bytes, tokens: list[int]) -> bytes:
        hashed.append(tokens)
        return chain_hash(parent, tokens)

    monkeypatch.setattr(manager, "chain_hash", count)
    scheduler = DefaultScheduler(make_settings(num_blocks=12), FirstComeFirstServed())
    loop = Loop(scheduler, FakeDevice(4), overlap=False)
    scheduler.add(make_request("first", list(range(17)), 20))
    scheduler.add(make_request("waits", list(range(17, 40)), 1))
    loop.drain()
    assert loop.tokens["waits"] == expected(list(range(17, 40)), 1)
    # Full blocks of either request's known tokens, each once.
    assert len(hashed) <= (17 + 20) // 4 + (23 + 1) // 4


def test_priority_runs_first_and_is_preempted_last() -> None:
    scheduler = DefaultScheduler(
        make_settings(max_num_seqs=1, max_num_batched_tokens=64), ByPriority()
    )
    scheduler.add(make_request("late", [1] * 4, 2, priority=5, arrival=0.0))
    scheduler.add(make_request("soon", [2] * 4, 2, priority=-5, arrival=1.0))
    loop = Loop(scheduler, FakeDevice(4), overlap=False)
    loop.drain()
    assert list(loop.reasons) == ["soon", "late"]


def test_preemption_happens_and_costs_nothing_but_time() -> None:
    scheduler = DefaultScheduler(make_settings(num_blocks=11), FirstComeFirstServed())
    loop = Loop(scheduler, FakeDevice(4), overlap=True)
    for index in range(4):
        scheduler.add(make_request(str(index), [index] * 7, 20))
    loop.drain()
    assert scheduler.stats().preemptions > 0
    for index in range(4):
        assert loop.tokens[str(index)] == expected([index] * 7, 20)


def test_impossible_requests_are_refused_before_any_work() -> None:
    scheduler = DefaultScheduler(make_settings(num_blocks=6, max_waiting=1), FirstComeFirstServed())
    with pytest.raises(InvalidRequest, match="at most 20 fit") as refused:
        scheduler.add(make_request("large", [1] * 15, 6))
    assert refused.value.param == "max_tokens"
    scheduler.add(make_request("a", [1], 2))
    with pytest.raises(Overloaded):
        scheduler.add(make_request("b", [1], 2))
    assert scheduler.stats().waiting == 1


def test_without_chunked_prefill_prompts_stay_whole() -> None:
    scheduler = DefaultScheduler(
        make_settings(chunked_prefill=False, max_num_batched_tokens=16, num_blocks=30),
        FirstComeFirstServed(),
    )
    for index in range(3):
        scheduler.add(make_request(str(index), [index] * 10, 4))
    plan = scheduler.plan()
    assert plan is not None
    assert [row.count for row in plan.rows] == [10]
    with pytest.raises(InvalidRequest, match="chunked prefill is off"):
        scheduler.add(make_request("long", [1] * 14, 4))


@pytest.mark.parametrize(
    ("decoding", "readers", "most"),
    [
        *((1, 1, 4096), (16, 16, 4096), (17, 17, 2048), (64, 64, 2048)),
        *((500, 500, 2048), (500, 10, 4096), (20, 0, 8192)),
    ],
)
def test_steps_with_prompts_are_the_shorter_the_more_read_what_is_decoded(
    decoding: int, readers: int, most: int
) -> None:
    limits = make_settings(
        num_blocks=20000, max_num_seqs=512, max_num_batched_tokens=8192, max_model_len=9000
    )
    scheduler = DefaultScheduler(limits, FirstComeFirstServed())
    device = FakeDevice(limits.block_size)
    loop = Loop(scheduler, device, overlap=False)
    for index in range(decoding):
        streamed = index < readers
        scheduler.add(make_request(f"early{index}", [index, *range(9)], 40, streamed=streamed))
    plan = scheduler.plan()
    assert plan is not None
    assert plan.num_tokens == 10 * decoding  # nobody waits for it
    loop.take_in(plan, device.execute(plan))
    scheduler.add(make_request("late", list(range(8300)), 4))
    sizes = []
    while scheduler.has_work():
        plan = scheduler.plan()
        assert plan is not None
        sizes.append(plan.num_tokens)
        loop.take_in(plan, device.execute(plan))
    # Less what a chunk leaves to the next, to end at a round number of tokens.
    assert most - 1024 < sizes[0] <= most
    assert max(sizes) <= most
    assert set(loop.reasons.values()) == {"length"}


@pytest.mark.parametrize("readers", [0, 3])
def test_chunks_that_more_will_follow_end_at_round_numbers(readers: int) -> None:
    limits = make_settings(
        num_blocks=20000, max_num_seqs=8, max_num_batched_tokens=8192, max_model_len=20000
    )
    scheduler = DefaultScheduler(limits, FirstComeFirstServed())
    device = FakeDevice(limits.block_size)
    loop = Loop(scheduler, device, overlap=False)
    for index in range(3):
        streamed = index < readers
        scheduler.add(make_request(f"early{index}", [index, 1], 40, streamed=streamed))
    loop.step()
    for index in range(2):
        scheduler.add(make_request(f"late{index}", [7 + index] * 15000, 2))
    ends = []
    while scheduler.has_work():
        plan = scheduler.plan()
        assert plan is not None
        ends += [row.start + row.count for row in plan.rows if row.count > 1]
        loop.take_in(plan, device.execute(plan))
    assert ends.count(15000) == 2
    assert all(end % 1024 == 0 for end in ends if end != 15000)
    assert set(loop.reasons.values()) == {"length"}


def test_a_prompt_whose_last_token_is_left_alone_is_counted_whole() -> None:
    limits = make_settings(max_num_batched_tokens=10)
    loop = Loop(
        DefaultScheduler(limits, FirstComeFirstServed()),
        FakeDevice(limits.block_size),
        overlap=False,
    )
    loop.scheduler.add(make_request("one", list(range(11)), 1))
    loop.drain()
    assert loop.scheduler.stats().prompt_tokens == 11
