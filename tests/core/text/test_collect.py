"""Whoever reads no tokens as they come gets the same, in one piece at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.core.collect import Collector, gather
from quire.core.output import CompletionOutput, RequestOutput
from quire.core.request import Request, SamplingParams
from quire.core.step import Delta, TokenLogprobs
from quire.core.text.tokenizer import Tokenizer
from tests.core.text.conftest import KINDS
from tests.core.text.test_detokenizer import QUICK, chunks, some_ids


def collector(tokenizer: Tokenizer, params: SamplingParams, *, streamed: bool) -> Collector:
    requests = [
        Request(
            request_id=f"r.{index}",
            prompt_token_ids=[1, 2],
            params=params,
            seed=0,
            max_tokens=99,
        )
        for index in range(params.n)
    ]
    return Collector("r", requests, params, tokenizer, streamed=streamed)


def collected(
    tokenizer: Tokenizer, params: SamplingParams, deltas: list[Delta], *, streamed: bool
) -> tuple[RequestOutput, list[int], list[str]]:
    """The whole, how many tokens came with each piece, and what was to be aborted."""
    parts = [CompletionOutput(index) for index in range(params.n)]
    output, sizes, aborted = RequestOutput("r", None, [1, 2], None, parts, False), [], []
    taker = collector(tokenizer, params, streamed=streamed)
    for delta in deltas:
        copy = Delta(**{field: getattr(delta, field) for field in Delta.__struct_fields__})
        copy.token_ids = list(delta.token_ids)
        stream, abort = taker.take(copy)
        if abort is not None:
            aborted.append(abort)
        if stream is not None:
            gather(output, stream)
            sizes.append(sum(len(news.token_ids) for news in stream.completions))
    record = taker.record()
    assert record is not None
    assert [part.num_generated for part in record.completions] == [
        len(part.token_ids) for part in output.outputs
    ]
    return output, sizes, aborted


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_what_the_pieces_join_to(
    kind: str, tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    params = SamplingParams(n=data.draw(st.integers(1, 3)), max_tokens=99)
    news: list[Delta] = []
    for index in range(params.n):
        parts = chunks(data, some_ids(data, tokenizer)) or [[]]
        reason = data.draw(st.sampled_from(["stop", "length", "abort"]))
        mine = [Delta(f"r.{index}", part, num_drafts=3, num_accepted=1) for part in parts]
        mine[0].num_cached, mine[0].queued = 7, 0.5
        mine.append(Delta(f"r.{index}", [0] * (reason == "stop"), reason))
        news = _mixed(data, news, mine)
    streamed, _, _ = collected(tokenizer, params, news, streamed=True)
    whole, sizes, aborted = collected(tokenizer, params, news, streamed=False)
    assert whole == streamed
    assert len(sizes) == params.n and not aborted
    assert whole.num_cached_tokens == 7


def _mixed(data: st.DataObject, one: list[Delta], other: list[Delta]) -> list[Delta]:
    """Both, each in its order."""
    first = data.draw(st.permutations([True] * len(one) + [False] * len(other)))
    sources = {True: iter(one), False: iter(other)}
    return [next(sources[which]) for which in first]


def test_where_a_stop_string_may_end_it_tokens_are_looked_at_as_they_come(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("The quick brown fox jumps", add_special_tokens=False)
    params = SamplingParams(max_tokens=99, stop="fox")
    deltas = [Delta("r.0", [token]) for token in ids]
    output, _, aborted = collected(tokenizer, params, deltas, streamed=False)
    assert output.outputs[0].text == "The quick brown "
    assert aborted == ["r.0"]


@pytest.mark.parametrize("streamed", [True, False])
def test_tokens_of_who_has_left_count(tokenizers: dict[str, Tokenizer], streamed: bool) -> None:
    params = SamplingParams(max_tokens=99)
    taker = collector(tokenizers["byte_level"], params, streamed=streamed)
    for size in (1, 3):
        taker.take(Delta("r.0", [7] * size))
    taker.give_up("abort")
    record = taker.record()
    assert record is not None and record.completions[0].num_generated == 4


def test_log_probabilities_come_with_their_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    params = SamplingParams(max_tokens=99, logprobs=0)
    deltas = [
        Delta("r.0", [token], logprobs=[TokenLogprobs(token, -1.0, 1, [], [])])
        for token in tokenizer.encode("quick fox", add_special_tokens=False)
    ]
    deltas.append(Delta("r.0", [], "length"))
    output, sizes, _ = collected(tokenizer, params, deltas, streamed=False)
    assert len(output.outputs[0].logprobs or []) == sum(sizes) == len(deltas) - 1
