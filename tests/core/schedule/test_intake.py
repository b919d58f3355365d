"""The quick way of taking in one token does what the general one does, or nothing."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from quire.core.request import Request, SamplingParams
from quire.core.schedule.intake import has_only_tokens, take_in, take_token
from quire.core.sequence import Sequence, Status
from quire.core.step import Outcome, Row

STOP = 3


@st.composite
def states(draw) -> Sequence:
    """A running sequence with a row in flight."""
    params = SamplingParams(max_tokens=draw(st.integers(1, 6)), min_tokens=draw(st.integers(0, 1)))
    request = Request(
        request_id="r",
        prompt_token_ids=[1, 2],
        params=params,
        seed=0,
        max_tokens=params.max_tokens,
        stop_ids=[STOP],
    )
    seq = Sequence(request)
    seq.status = Status.RUNNING
    emitted = draw(st.integers(0, max(0, params.max_tokens - 1)))
    seq.token_ids.extend([5] * emitted)
    seq.num_pending = draw(st.integers(1, 2))
    seq.num_computed = len(seq.token_ids) + seq.num_pending - 1
    seq.num_ready = draw(st.integers(0, 1))
    seq.num_valid = draw(st.integers(0, 1))
    seq.quarantined = draw(st.booleans())
    return seq


def state(seq: Sequence) -> dict[str, object]:
    return {
        name: getattr(seq, name) for name in Sequence.__slots__ if name not in ("drafting", "order")
    }


@given(states(), st.lists(st.integers(0, 5), max_size=2), st.integers(0, 1))
def test_a_token_is_taken_in_as_ever(seq, drawn, propose) -> None:
    row = Row(0, seq.num_computed - seq.num_pending + 1, 1, [], True, propose=propose)
    outcome = Outcome(0, [drawn])
    other, before = copy.deepcopy(seq), copy.deepcopy(state(seq))
    assert has_only_tokens(outcome)
    quick = take_token(seq, row, drawn)
    if quick is None:
        assert state(seq)["token_ids"] == before["token_ids"]
        assert seq.num_pending == before["num_pending"]
        return
    assert quick == take_in(other, row, 0, outcome)
    ours, theirs = state(seq), state(other)
    ours.pop("request"), theirs.pop("request")
    assert ours == theirs
    assert seq.drafting.skips() == other.drafting.skips()
    assert quick.finish_reason is None


def test_a_search_that_found_nothing_is_noted() -> None:
    params = SamplingParams(max_tokens=9)
    seq = Sequence(
        Request(request_id="r", prompt_token_ids=[1], params=params, seed=0, max_tokens=9)
    )
    seq.token_ids.append(5)
    seq.num_pending = 2
    row = Row(0, 1, 1, [], True, propose=1)
    assert take_token(seq, row, [5]) or take_in(seq, row, 0, Outcome(0, [[5]]))
    assert seq.drafting.skips() == 1


@given(states())
def test_most_rows_go_the_quick_way(seq) -> None:
    row = Row(0, seq.num_computed, 1, [], True)
    plain = not (seq.num_ready or seq.num_valid or seq.quarantined)
    goes_on = len(seq.token_ids) > seq.num_prompt and len(seq.token_ids) + 1 < seq.token_limit
    assert (take_token(seq, row, [5]) is not None) == (plain and goes_on)


def test_what_else_a_step_may_bring() -> None:
    for changes in (
        {"failures": {0: "why"}}, {"exhausted": [0]}, {"proposed": {0: 1}},
        {"logprobs": {0: []}}, {"prompt_logprobs": {0: []}},
    ):  # fmt: skip
        assert not has_only_tokens(Outcome(0, [[5]], **changes))
