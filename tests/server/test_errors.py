"""Every failure is an OpenAI error object with the right status, short and without echo."""

import openai
import pytest

from quire.core.errors import CapacityError, EngineDeadError, InvalidRequest, Overloaded
from tests.fakes.engine import ANSWER

USER = [{"role": "user", "content": "Hi"}]
SECRET = "tr0ub4dor"
JSON = {"content-type": "application/json"}


def is_error(response, status):
    assert response.status_code == status
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert 0 < len(error["message"]) <= 1000
    for leak in (SECRET, "Traceback", "object at 0x", "/work/", "site-packages"):
        assert leak not in response.text
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_url"),
        ("GET", f"/v1/{SECRET}", 404, "unknown_url"),
        ("GET", f"/v1/models/{SECRET}", 404, "model_not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_wrong_address(server, method, path, status, code):
    response = await server.http.request(method, path)
    assert is_error(response, status)["code"] == code
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff", None),
        (b'{"messages": "\\ud800"}', None),
        (b"[" * 100_000, None),
        (b'{"tools": [{"a":' + b"[" * 100_000, None),
        (b"[]", None),
        (b"{}", "messages"),
        (
            f'{{"messages": [{{"role": "user", "content": {{"{SECRET}": 1}}}}]}}'.encode(),
            "messages",
        ),
        (f'{{"messages": [], "n": "{SECRET}"}}'.encode(), "messages"),
        (f'{{"messages": [{{"role": ""}}], "n": "{SECRET}"}}'.encode(), "messages[0].role"),
        (f'{{"n": "{SECRET}"}}'.encode(), "n"),
        (f'{{"logit_bias": {{"{SECRET}": 1}}}}'.encode(), "logit_bias"),
        (b'{"temperature": 1e999}', "temperature"),
        (b'{"stop": [1]}', "stop[0]"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_wrong_body(server, body, param):
    response = await server.http.post("/v1/chat/completions", content=body, headers=JSON)
    found = is_error(response, 400)["param"]
    assert found == param or (found or "").startswith(f"{param}[")


async def test_wrong_content_type(server):
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    headers = {"content-type": "text/plain"}
    response = await server.http.post("/v1/chat/completions", content=body, headers=headers)
    is_error(response, 415)


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_a_body(start, configure, chunked):
    async with start(configure(server={"max_body_bytes": 1000})) as server:

        async def pieces():
            for _ in range(20):
                yield b" " * 100

        content = pieces() if chunked else b" " * 2000
        response = await server.http.post("/v1/completions", content=content, headers=JSON)
        assert is_error(response, 413)["code"] == "request_too_large"


async def test_unknown_model(server):
    with pytest.raises(openai.NotFoundError) as caught:
        await server.client.chat.completions.create(model=SECRET, messages=USER)
    assert caught.value.code == "model_not_found"
    assert SECRET not in caught.value.message


ENGINE_ERRORS = [
    (InvalidRequest("the prompt is too long", "prompt"), 400, "invalid_value"),
    (CapacityError("9 blocks are needed, 4 exist"), 400, "context_length_exceeded"),
    (Overloaded("the queue is full"), 503, "server_overloaded"),
    (EngineDeadError(f"rank 0 died {SECRET}"), 503, "engine_dead"),
    (RuntimeError(f"at /work/x {SECRET}"), 500, "internal_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("raised", "status", "code"), ENGINE_ERRORS, ids=lambda v: str(v)[:20])
async def test_the_engine_refuses(server, raised, status, code, stream):
    server.engine.refuse = raised
    body = {"messages": USER, "stream": stream}
    response = await server.http.post("/v1/chat/completions", json=body)
    assert is_error(response, status)["code"] == code
    if code == "server_overloaded":
        assert int(response.headers["retry-after"]) > 0
    many = {"prompt": ["a", "b", "c"], "stream": stream}
    is_error(await server.http.post("/v1/completions", json=many), status)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_request_at_its_first_token(server, stream):
    server.engine.fail_after = 1
    body = {"messages": USER, "stream": stream}
    response = await server.http.post("/v1/chat/completions", json=body)
    assert is_error(response, 500)["code"] == "generation_failed"


async def test_a_failing_stream_says_so_and_ends(server):
    server.engine.fail_after = 3
    body = {"messages": USER, "stream": True}
    response = await server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert "generation_failed" in events[-2]
    assert "object at 0x" not in response.text

    stream = await server.client.chat.completions.create(model="demo", messages=USER, stream=True)
    with pytest.raises(openai.APIError, match="failed on this request"):
        async for _ in stream:
            pass


async def test_the_engine_dies_in_a_stream(server):
    server.engine.gate.clear()
    stream = await server.client.chat.completions.create(model="demo", messages=USER, stream=True)
    assert (await anext(stream)).choices[0].delta.content == ANSWER[0]
    server.engine.die()
    with pytest.raises(openai.APIError, match="the engine stopped"):
        await anext(stream)


async def test_a_bug_is_logged_and_not_told(server, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise ValueError(SECRET)

    monkeypatch.setattr(server.engine.tokenizer, "encode_chat", broken)
    response = await server.http.post("/v1/chat/completions", json={"messages": USER})
    assert is_error(response, 500)["code"] == "internal_error"
    assert SECRET in caplog.text
