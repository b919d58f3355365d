"""A client that hangs up frees the engine at once, whatever it was waiting for."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.server.waiting import until

USER = [{"role": "user", "content": "Hi"}]
CHAT = {"messages": USER}
MANY = {"prompt": ["a", "b", "c"]}


async def send(server, path, body):
    """A request over a socket of its own, answer unread."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=2**10)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "prompts"),
    [("/v1/chat/completions", CHAT, 1), ("/v1/completions", MANY, 3)],
    ids=["chat", "many"],
)
@pytest.mark.parametrize("before", [0, 3], ids=["before the first token", "later"])
async def test_hanging_up_aborts(server, path, body, prompts, stream, before):
    engine = server.engine
    engine.gate.clear()
    engine.before_gate = before
    reader, writer = await send(server, path, body | {"stream": stream})
    await until(lambda: len(engine.running) == prompts)
    if stream and before:
        assert b"200" in await reader.readline()
    writer.close()
    await until(lambda: not engine.running)
    assert len(set(engine.aborted) | set(engine.closed)) == prompts
    await asyncio.wait_for(server.gate.idle(), 5)


async def test_hanging_up_while_the_answer_is_not_read(server, monkeypatch):
    # More than the sockets' buffers hold, so that the server is stuck in a write.
    monkeypatch.setattr("tests.fakes.engine.ANSWER", "x" * 50_000)
    engine = server.engine
    body = {"prompt": "a", "max_tokens": 50_000, "n": 16, "stream": True, "logprobs": 20}
    reader, writer = await send(server, "/v1/completions", body)
    await until(lambda: engine.running)
    reader._transport.pause_reading()
    await asyncio.wait_for(_stalled(engine), 30)
    assert engine.running
    writer.transport.abort()
    await until(lambda: not engine.running)
    await asyncio.wait_for(server.gate.idle(), 5)


async def _stalled(engine):
    """Return when the engine's stream is no longer asked for more."""
    before = -1
    while before != engine.steps:
        before = engine.steps
        for _ in range(200):
            await asyncio.sleep(0)


async def test_hanging_up_between_the_first_token_and_the_first_event(server):
    """The disconnect is there already when the response begins."""
    body = json.dumps(CHAT | {"stream": True}).encode()
    server.engine.gate.clear()
    calls, started = 0, asyncio.Event()

    async def receive():
        nonlocal calls
        calls += 1
        if calls == 1:
            return {"type": "http.request", "body": body, "more_body": False}
        if not started.is_set():
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message):
        assert message["type"].startswith("http.response.")
        started.set()

    headers = [(b"content-type", b"application/json"), (b"host", b"x")]
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    await server.gate(scope, receive, send)
    assert started.is_set()
    assert len(set(server.engine.aborted) | set(server.engine.closed)) == 1


async def test_finished_requests_are_not_aborted(server):
    for stream in (False, True):
        await server.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        await server.http.post("/v1/completions", json=MANY | {"stream": stream})
    assert not server.engine.aborted
    assert not server.engine.closed


async def test_one_bad_prompt_stops_the_others(server):
    response = await server.http.post("/v1/completions", json={"prompt": [[1], [], [2]]})
    assert response.status_code == 400
    await until(lambda: not server.engine.running)


async def test_many_streams_with_every_third_cut_off(server):
    server.engine.gate.clear()

    async def one(number):
        stream = await server.client.chat.completions.create(**CHAT, model="demo", stream=True)
        text = (await anext(stream)).choices[0].delta.content
        if number % 3 == 0:
            await stream.close()
            return None
        server.engine.gate.set()
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    answers = await asyncio.gather(*(one(number) for number in range(60)))
    assert {answer for i, answer in enumerate(answers) if i % 3} == {"Hello, wörld! All is well."}
    await asyncio.wait_for(server.gate.idle(), 5)
    assert not server.engine.running
