"""The quick way of taking in tokens does what the general one does, or nothing."""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.request import Request, SamplingParams
from quire.core.schedule.intake import has_only_tokens, take_in, take_tokens
from quire.core.sequence import Sequence, Status
from quire.core.step import Outcome, Row

STOP = 3


@st.composite
def states(draw) -> tuple[Sequence, Row]:
    """A sequence with a row in flight, and perhaps another one behind it."""
    params = SamplingParams(max_tokens=draw(st.integers(1, 16)), min_tokens=draw(st.integers(0, 1)))
    seq = Sequence(_request(params))
    seq.status = draw(st.sampled_from([Status.RUNNING, Status.RUNNING, Status.WAITING]))
    emitted = draw(st.integers(0, min(6, params.max_tokens - 1)))
    seq.token_ids.extend([5] * emitted)
    drafts, behind, propose = (draw(st.integers(0, 3)) for _ in range(3))
    row = Row(0, len(seq.token_ids) - 1, 1 + drafts, [], True, drafts, 0, propose)
    seq.num_slack = drafts + behind
    seq.num_pending = seq.num_slack + draw(st.integers(1, 2))
    seq.num_computed = len(seq.token_ids) + seq.num_pending - 1
    seq.num_ready = draw(st.integers(0, 3))
    seq.num_valid = draw(st.integers(0, 3))
    seq.quarantined = draw(st.integers(0, 9)) == 9
    return seq, row


def _request(params: SamplingParams) -> Request:
    return Request(
        request_id="r",
        prompt_token_ids=[1, 2],
        params=params,
        seed=0,
        max_tokens=params.max_tokens,
        stop_ids=[STOP],
    )


def state(seq: Sequence) -> dict[str, object]:
    """All there is, but for what tells one copy from another."""
    values = {name: getattr(seq, name) for name in Sequence.__slots__ if name != "request"}
    values["drafting"] = copy.deepcopy(seq.drafting).skips()
    return values


@settings(max_examples=300)
@given(states(), st.data())
def test_tokens_are_taken_in_as_ever(planned, data) -> None:
    seq, row = planned
    proposed = data.draw(st.integers(0, row.propose))
    drawn = data.draw(st.lists(st.integers(STOP, 20), max_size=row.count))
    outcome = Outcome(0, [drawn], proposed={0: proposed} if proposed else {})
    other, before = copy.deepcopy(seq), copy.deepcopy(state(seq))
    assert has_only_tokens(outcome)
    quick = take_tokens(seq, row, 0, outcome)
    if quick is None:
        assert state(seq) == before
        return
    assert quick == take_in(other, row, 0, outcome)
    assert state(seq) == state(other)
    assert quick.finish_reason is None


def test_a_search_that_found_nothing_is_noted() -> None:
    seq = Sequence(_request(SamplingParams(max_tokens=9)))
    seq.token_ids.append(5)
    seq.num_pending = 2
    row = Row(0, 2, 1, [], True, propose=1)
    assert take_tokens(seq, row, 0, Outcome(0, [[5]]))
    assert seq.drafting.skips() == 1


@given(states())
def test_most_rows_go_the_quick_way(planned) -> None:
    seq, row = planned
    count = len(seq.token_ids)
    goes_on = count > seq.num_prompt and count + row.count < seq.token_limit
    taken = take_tokens(seq, row, 0, Outcome(0, [[5] * row.count]))
    assert (taken is not None) == (goes_on and not seq.quarantined)


def test_what_else_a_step_may_bring() -> None:
    for changes in (
        {"failures": {0: "why"}}, {"exhausted": [0]},
        {"logprobs": {0: []}}, {"prompt_logprobs": {0: []}},
    ):  # fmt: skip
        assert not has_only_tokens(Outcome(0, [[5]], **changes))
