"""POST /v1/chat/completions through the openai client."""

import json

import openai
import pytest

from tests.fakes.engine import ANSWER

USER = [{"role": "user", "content": "Hi"}]
SIZE = len(ANSWER.encode())


async def test_whole_answer(server):
    answer = await server.client.chat.completions.create(model="demo", messages=USER)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert choice.finish_reason == "stop"
    prompt = len("user: Hi\nassistant: ")
    assert answer.usage.prompt_tokens == prompt
    assert answer.usage.completion_tokens == SIZE
    assert answer.usage.total_tokens == prompt + SIZE
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.id == answer._request_id
    assert server.engine.streamed == [False]


async def test_stream_joins_to_the_whole(server):
    stream = await server.client.chat.completions.create(
        model="demo", messages=USER, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert server.engine.streamed == [True]
    *body, last = chunks
    texts, roles, reasons = {0: "", 1: ""}, {0: [], 1: []}, {0: [], 1: []}
    for chunk in body:
        (choice,) = chunk.choices
        assert chunk.usage is None
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index].append(choice.delta.role)
        reasons[choice.index].append(choice.finish_reason)
    assert texts == {0: ANSWER, 1: ANSWER}
    for index in (0, 1):
        assert roles[index] == ["assistant"] + [None] * (len(roles[index]) - 1)
        assert reasons[index] == [None] * (len(reasons[index]) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage.completion_tokens == 2 * SIZE


async def test_stream_is_events_with_an_end(server):
    body = {"messages": USER, "stream": True, "max_tokens": 2}
    response = await server.http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]
    first = json.loads(events[0].removeprefix("data: "))
    assert "usage" not in first
    assert first["choices"][0]["finish_reason"] is None
    assert first["object"] == "chat.completion.chunk"


async def test_continuous_usage_counts_up(server):
    stream = await server.client.chat.completions.create(
        model="demo",
        messages=USER,
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert [chunk.usage.completion_tokens async for chunk in stream] == [1, 2, 3, 3]


async def test_logprobs(server):
    answer = await server.client.chat.completions.create(
        model="demo", messages=USER, max_tokens=3, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert [entry.token for entry in content] == ["H", "e", "l"]
    assert [entry.bytes for entry in content] == [[72], [101], [108]]
    assert {entry.logprob for entry in content} == {-0.5}
    assert [top.token for top in content[0].top_logprobs] == ["I", "H", "K"]
    assert [top.logprob for top in content[0].top_logprobs] == [-0.25, -0.5, -2.25]


async def test_streamed_logprobs_cover_every_token(server):
    stream = await server.client.chat.completions.create(
        model="demo", messages=USER, stream=True, logprobs=True
    )
    found = []
    async for chunk in stream:
        found += [bytes(entry.bytes) for entry in chunk.choices[0].logprobs.content]
    assert b"".join(found) == ANSWER.encode()


async def test_prompt_logprobs(server):
    body = {"messages": USER, "max_tokens": 1, "prompt_logprobs": 1}
    answer = (await server.http.post("/v1/chat/completions", json=body)).json()
    first, second = answer["prompt_logprobs"][:2]
    assert first is None
    assert second[str(ord("s"))] == {"logprob": -0.5, "rank": 2, "decoded_token": None}


async def test_text_parts_tools_and_calls_reach_the_template(server):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    await server.client.chat.completions.create(
        model="demo",
        messages=messages,
        tools=[tool],
        extra_body={"chat_template_kwargs": {"thinking": False}},
    )
    seen = server.engine.tokenizer.seen
    assert seen["tools"] == [tool]
    assert seen["template_kwargs"] == {"thinking": False}
    assert [message["content"] for message in seen["messages"]] == ["a\nb", "", "2"]
    assert seen["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert seen["messages"][2]["tool_call_id"] == "c"


async def test_tools_are_left_out_when_no_call_is_wanted(server):
    tool = {"type": "function", "function": {"name": "f"}}
    await server.client.chat.completions.create(
        model="demo", messages=USER, tools=[tool], tool_choice="none"
    )
    assert server.engine.tokenizer.seen["tools"] is None


async def test_sampling_fields_reach_the_engine(server):
    await server.client.chat.completions.create(
        model="demo",
        messages=USER,
        max_completion_tokens=5,
        max_tokens=9,
        temperature=0.25,
        seed=7,
        stop="x",
        logit_bias={"65": 2},
        extra_body={"top_k": 3, "min_p": 0.1, "priority": 4, "cache_salt": "s", "mystery": 1},
    )
    _, params, keywords = server.engine.requests[0]
    assert (params.max_tokens, params.temperature, params.seed) == (5, 0.25, 7)
    assert (params.top_k, params.min_p, params.logit_bias) == (3, 0.1, {65: 2.0})
    assert params.stop_strings == ("x",)
    assert keywords == {"priority": 4, "cache_salt": "s"}


async def test_without_a_limit_the_context_is_the_limit(server):
    await server.client.chat.completions.create(model="demo", messages=USER)
    assert server.engine.requests[0][1].max_tokens is None


async def test_a_long_conversation_is_read_off_the_event_loop(server, monkeypatch):
    import threading

    threads = []
    encode = server.engine.tokenizer.encode_chat

    def spy(*args, **kwargs):
        threads.append(threading.current_thread())
        return encode(*args, **kwargs)

    monkeypatch.setattr(server.engine.tokenizer, "encode_chat", spy)
    for content in ("short", "long " * 10_000):
        await server.client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": content}]
        )
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


UNSUPPORTED = [
    ("response_format", {"type": "json_object"}),
    ("tool_choice", "required"),
    ("functions", [{"name": "f"}]),
    ("use_beam_search", True),
    ("best_of", 3),
    ("logits_processors", ["x"]),
    ("guided_regex", "a+"),
    ("structured_outputs", {"regex": "a"}),
    ("modalities", ["audio"]),
    ("chat_template", "{{ x }}"),
    ("echo", True),
    ("top_logprobs", 2),
    ("stream_options", {"include_usage": True}),
    ("temperature", -1),
    ("max_tokens", 0),
    ("n", 100_000),
    ("stop", [""]),
    ("seed", 2**70),
    ("stop_token_ids", [-1]),
    ("cache_salt", ""),
    ("messages", []),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]),
    ("tools", [{"type": "web"}]),
]


@pytest.mark.parametrize(("field", "value"), UNSUPPORTED, ids=lambda v: str(v)[:30])
async def test_what_is_not_supported_is_refused_by_name(server, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        await server.client.chat.completions.create(
            model="demo", messages=USER, extra_body={field: value}
        )
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param.split(".")[0].split("[")[0] == field
    assert field.split("_")[0] in caught.value.message
    assert not server.engine.requests


@pytest.mark.parametrize(
    "harmless",
    [
        {"response_format": {"type": "text"}},
        {"tool_choice": "auto"},
        {"best_of": 1},
        {"use_beam_search": False},
        {"logits_processors": None},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": False},
        {"temperature": None, "stop": None, "n": None, "max_tokens": None},
    ],
    ids=str,
)
async def test_what_changes_nothing_is_accepted(server, harmless):
    answer = await server.client.chat.completions.create(
        model="demo", messages=USER, extra_body=harmless
    )
    assert answer.choices[0].message.content == ANSWER
