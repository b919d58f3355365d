"""The openai client against the real server: engine process, embedded model and all."""

import asyncio
import json
import signal
import socket

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.server.process import ServerProcess
from tests.server.test_fuzz import CHAT, COMPLETION, judge

USER = [{"role": "user", "content": "What is 2 + 3?"}]
TEXT = "The quick brown fox jumps over the lazy dog and runs into the dark green forest."
GREEDY = {"model": "demo", "temperature": 0}
LONG = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def served():
    process = ServerProcess()
    yield process
    assert process.stop() == 0


@pytest.fixture
def client(served):
    return served.client()


@pytest.fixture
def start():
    """Starts servers that the test itself brings to an end."""
    made = []

    def make(**sections):
        made.append(ServerProcess(**sections))
        return made[-1]

    yield make
    for process in made:
        process.process.kill()
        process.process.wait()
        process.process.stdout.close()


async def metrics(url: str) -> dict[str, float]:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def idle(url: str) -> dict[str, float]:
    """The metrics once nothing runs and no block is in use."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    async with asyncio.timeout(20):
        found = await metrics(url)
        while any(found[name] for name in names):
            found = await metrics(url)
    return found


async def collect(stream) -> tuple[str, str | None]:
    text, reason = "", None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


async def test_chat_whole_and_streamed(client):
    whole = await client.chat.completions.create(messages=USER, **GREEDY)
    assert "5" in whole.choices[0].message.content
    stream = await client.chat.completions.create(messages=USER, stream=True, **GREEDY)
    assert await collect(stream) == (whole.choices[0].message.content, "stop")


async def test_usage_counts_tokens_and_cached_ones(client):
    def ask():
        return client.completions.create(prompt=TEXT * 3, max_tokens=7, **GREEDY)

    first, second = await ask(), await ask()
    assert first.usage.completion_tokens == 7
    assert first.usage.prompt_tokens == second.usage.prompt_tokens
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < second.usage.prompt_tokens
    assert first.choices[0].text == second.choices[0].text


async def test_n_and_seed(client):
    async def ask(seed):
        answer = await client.completions.create(
            model="demo", prompt="Once", n=3, seed=seed, max_tokens=8
        )
        return [choice.text for choice in answer.choices]

    first, again, other = await ask(1), await ask(1), await ask(2)
    assert first == again
    assert first[1:] == other[:2]
    assert len(set(first)) > 1


async def test_stop_strings(client):
    whole = await client.completions.create(prompt=TEXT, max_tokens=30, **GREEDY)
    text = whole.choices[0].text
    stop = text[8:12]
    cut = await client.completions.create(prompt=TEXT, max_tokens=30, stop=stop, **GREEDY)
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].stop_reason == stop


async def test_logprobs_of_a_scored_prompt_are_those_of_generating_it(client):
    made = await client.completions.create(prompt=TEXT, max_tokens=6, logprobs=2, **GREEDY)
    tail = made.choices[0]
    scored = await client.completions.create(
        prompt=TEXT + tail.text, max_tokens=0, logprobs=2, echo=True, **GREEDY
    )
    echoed = scored.choices[0]
    assert echoed.text == TEXT + tail.text
    assert echoed.logprobs.token_logprobs[0] is None
    assert echoed.logprobs.tokens[-6:] == tail.logprobs.tokens
    assert echoed.logprobs.token_logprobs[-6:] == pytest.approx(
        tail.logprobs.token_logprobs, abs=0.05
    )
    assert scored.usage.completion_tokens == 0


async def test_token_ids_as_prompts(client):
    answer = await client.completions.create(
        prompt=[[5, 6, 7], [8, 9]], max_tokens=3, echo=True, **GREEDY
    )
    assert answer.usage.prompt_tokens == 5
    assert len(answer.choices) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": "word " * 20_000}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_the_engine_refuses_is_a_400(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="demo", prompt="x", extra_body=change)
    assert (caught.value.param or "").startswith(param)


async def test_a_timeout_of_the_client_ends_the_work(served):
    client = served.client(timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(messages=USER, **GREEDY, **LONG)
    await idle(served.url)


async def test_cancelling_the_client_ends_the_work(served, client):
    task = asyncio.ensure_future(client.chat.completions.create(messages=USER, **GREEDY, **LONG))
    while not (await metrics(served.url))["vllm:num_requests_running"]:
        pass
    task.cancel()
    await idle(served.url)


async def test_two_hundred_streams_with_every_third_cut_off(served, client):
    async def one(number: int) -> tuple[str, str | None] | None:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": f"Tell me about the number {number}."}],
            seed=number,
            max_tokens=24,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        if number % 3:
            return await collect(stream)
        for _ in range(3):
            await anext(stream)
        await stream.close()
        return None

    answers = await asyncio.gather(*(one(number) for number in range(200)))
    rest = [answer for number, answer in enumerate(answers) if number % 3]
    assert {reason for _, reason in rest} == {"length"}
    assert all(text for text, _ in rest)
    found = await idle(served.url)
    assert found["vllm:engine_healthy"] == 1


@pytest.mark.parametrize(
    ("path", "bodies"),
    [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)],
    ids=["chat", "completions"],
)
async def test_no_body_makes_a_5xx(served, path, bodies):
    limits = {"max_tokens": 2, "max_completion_tokens": None, "model": None, "min_tokens": None}

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.data())
    def generate(data):
        sent.append(data.draw(bodies) | limits)

    sent: list[dict] = []
    generate()
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        for body in sent:
            headers = {"content-type": "application/json"}
            judge(await http.post(path, content=json.dumps(body).encode(), headers=headers))
        assert (await http.get("/health")).status_code == 200


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def test_overload_metrics_port_and_drain(start):
    port = free_port()
    process = start(
        schedule={"max_num_seqs": 2, "max_waiting": 4},
        metrics={"port": port},
        server={"drain_seconds": 600},  # However busy the machine is.
    )
    client = process.client()

    async def one():
        try:
            return await client.chat.completions.create(
                messages=USER, **GREEDY, max_tokens=40, extra_body={"ignore_eos": True}
            )
        except openai.InternalServerError as error:
            return error

    answers = await asyncio.gather(*(one() for _ in range(30)))
    refused = [a for a in answers if isinstance(a, openai.InternalServerError)]
    assert 0 < len(refused) < 30
    assert {error.code for error in refused} == {"server_overloaded"}
    assert all(int(error.response.headers["retry-after"]) > 0 for error in refused)
    assert "vllm:kv_cache_usage_perc" in await idle(f"http://127.0.0.1:{port}")

    stream = await client.chat.completions.create(messages=USER, **GREEDY, **LONG, stream=True)
    await anext(stream)
    process.process.send_signal(signal.SIGTERM)
    async with httpx.AsyncClient(base_url=process.url) as http:
        while (await http.get("/health")).status_code != 503:
            pass
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(messages=USER, **GREEDY)
    assert caught.value.code == "draining"
    assert (await collect(stream))[1] == "length"
    assert process.ended() == 0


async def test_what_does_not_end_in_time_is_told_so(start):
    process = start(server={"drain_seconds": 0.2})
    stream = await process.client().chat.completions.create(
        messages=USER, **GREEDY, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(stream)
    process.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="the engine stopped"):
        await collect(stream)
    assert process.ended() == 0


async def test_the_death_of_the_engine_ends_the_server(start):
    process = start()
    client = process.client()
    stream = await client.chat.completions.create(messages=USER, **GREEDY, **LONG, stream=True)
    await anext(stream)
    whole = asyncio.ensure_future(client.chat.completions.create(messages=USER, **GREEDY, **LONG))
    while (await metrics(process.url))["vllm:num_requests_running"] < 2:
        pass
    process.engine().kill()
    with pytest.raises(openai.APIError, match="the engine stopped"):
        await collect(stream)
    with pytest.raises(openai.InternalServerError) as caught:
        await whole
    assert caught.value.code == "engine_dead"
    assert process.ended() == 1
