"""POST /v1/completions through the openai client."""

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.server.openai.logprobs import completion_logprobs
from tests.fakes.engine import ANSWER, ByteTokenizer, logprobs


async def test_default_limit_is_sixteen(server):
    answer = await server.client.completions.create(model="demo", prompt="Hi")
    assert answer.choices[0].text == ANSWER.encode()[:16].decode()
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
    ids=str,
)
async def test_prompt_kinds(server, prompt, ids):
    answer = await server.client.completions.create(model="demo", prompt=prompt, n=2, max_tokens=2)
    assert [asked for asked, _, _ in server.engine.requests] == ids
    assert [choice.index for choice in answer.choices] == list(range(2 * len(ids)))
    assert {choice.text for choice in answer.choices} == {"He"}
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.completion_tokens == 4 * len(ids)


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], "a"], ["a"] * 300, ""], ids=str)
async def test_prompts_refused(server, prompt):
    with pytest.raises(openai.BadRequestError) as caught:
        await server.client.completions.create(model="demo", prompt=prompt)
    assert caught.value.param == "prompt"


async def test_stream_of_many_prompts(server):
    stream = await server.client.completions.create(
        model="demo",
        prompt=["a", "b", "c"],
        max_tokens=5,
        stream=True,
        echo=True,
        stream_options={"include_usage": True},
    )
    texts = {0: "", 1: "", 2: ""}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "aHello", 1: "bHello", 2: "cHello"}
    assert chunk.usage.completion_tokens == 15


async def test_logprobs(server):
    answer = await server.client.completions.create(
        model="demo", prompt="xy", max_tokens=3, logprobs=1
    )
    found = answer.choices[0].logprobs
    assert found.tokens == ["H", "e", "l"]
    assert found.token_logprobs == [-0.5] * 3
    assert found.text_offset == [0, 1, 2]
    assert found.top_logprobs[0] == {"H": -0.5, "I": -0.25}


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_logprobs_covers_the_prompt(server, stream):
    answer = await server.client.completions.create(
        model="demo", prompt="xy", max_tokens=2, logprobs=0, echo=True, stream=stream
    )
    chunks = [chunk async for chunk in answer] if stream else [answer]
    tokens, offsets, scores, text = [], [], [], ""
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.text
        tokens += choice.logprobs.tokens
        offsets += choice.logprobs.text_offset
        scores += choice.logprobs.token_logprobs
    assert text == "xyHe"
    assert tokens == list("xyHe")
    assert offsets == [0, 1, 2, 3]
    assert scores == [None, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("stream", [False, True])
async def test_scoring_alone_generates_nothing(server, stream):
    answer = await server.client.completions.create(
        model="demo", prompt="xyz", max_tokens=0, logprobs=1, echo=True, stream=stream
    )
    chunks = [chunk async for chunk in answer] if stream else [answer]
    (chunk,) = chunks
    choice = chunk.choices[0]
    assert choice.text == "xyz"
    assert choice.finish_reason == "length"
    assert choice.logprobs.tokens == ["x", "y", "z"]
    assert choice.logprobs.top_logprobs[0] is None
    if not stream:
        assert chunk.usage.completion_tokens == 0
        assert server.engine.requests[0][1].max_tokens == 1


async def test_echo_of_token_ids_is_their_text(server):
    answer = await server.client.completions.create(
        model="demo", prompt=[104, 105], max_tokens=1, echo=True
    )
    assert answer.choices[0].text == "hiH"
    assert answer.choices[0].logprobs is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("suffix", "x"), ("prompt_embeds", "x"), ("logprobs", 21), ("logprobs", -1)],
)
async def test_what_is_not_supported_is_refused_by_name(server, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        await server.client.completions.create(model="demo", prompt="x", extra_body={field: value})
    assert caught.value.param == field


@settings(max_examples=50, deadline=None)
@given(tokens=st.lists(st.integers(0, 127), min_size=1, max_size=30), cut=st.integers(0, 30))
def test_logprobs_in_pieces_are_those_of_the_whole(tokens, cut):
    positions = [logprobs(token, 3) for token in tokens]

    def make(part: slice, offset: int):
        return completion_logprobs(
            ByteTokenizer(), tokens[part], positions[part], top=3, offset=offset
        )

    whole, end = make(slice(None), 0)
    head, middle = make(slice(None, cut), 0)
    tail, last = make(slice(cut, None), middle)
    assert end == last
    for name in ("text_offset", "token_logprobs", "tokens", "top_logprobs"):
        assert getattr(whole, name) == getattr(head, name) + getattr(tail, name)
