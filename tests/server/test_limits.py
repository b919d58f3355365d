"""Limits hold before any work: over HTTP, and for the same numbers offline."""

import pytest

from quire import SamplingParams
from quire.core.errors import InvalidRequest

USER = [{"role": "user", "content": "Hi"}]
DEEP = "[" * 2000 + "]" * 2000

# Field and a value over its limit; the same everywhere, since one validator sees it.
SAMPLING = [
    ("n", 129),
    ("max_tokens", 2**31),
    ("min_tokens", 2**31),
    ("stop", ["x"] * 65),
    ("stop", "x" * 1025),
    ("bad_words", ["x"] * 257),
    ("bad_words", ["x" * 1025]),
    ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ("prompt_logprobs", 21),
    ("seed", 2**63),
    ("temperature", 101),
    ("top_k", 2**31),
    ("repetition_penalty", 101),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(("field", "value"), SAMPLING, ids=lambda v: str(v)[:20])
async def test_a_value_over_its_limit(server, field, value, path):
    with pytest.raises(InvalidRequest) as offline:
        SamplingParams(**{field: value})
    assert offline.value.param == field
    body = {"messages": USER} if "chat" in path else {"prompt": "x"}
    response = await server.http.post(path, json=body | {field: value})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].split("[")[0] == field
    assert not server.engine.requests


CHAT = [
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"messages": USER * 4097}, "messages"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 257}, "tools"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
    ({"priority": 2**31}, "priority"),
]
COMPLETIONS = [
    ({"logprobs": 21}, "logprobs"),
    ({"prompt": ["x"] * 257}, "prompt"),
    ({"prompt": ["x"] * 200, "n": 128}, "n"),
    ({"best_of": 2}, "best_of"),
]


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [("/v1/chat/completions", *row) for row in CHAT]
    + [("/v1/completions", *row) for row in COMPLETIONS],
    ids=lambda v: str(v)[:30],
)
async def test_what_only_a_body_has(server, path, changes, param):
    body = {"messages": USER} if "chat" in path else {"prompt": "x"}
    response = await server.http.post(path, json=body | changes)
    assert response.status_code == 400, response.text
    assert (response.json()["error"]["param"] or "").split("[")[0] == param
    assert not server.engine.requests


@pytest.mark.parametrize("field", ["tools", "chat_template_kwargs", "logit_bias", "nonsense"])
async def test_depth_without_end(server, field):
    content = f'{{"messages": [{{"role": "user", "content": "x"}}], "{field}": {DEEP}}}'
    headers = {"content-type": "application/json"}
    response = await server.http.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code < 500
    assert len(response.content) < 2000


async def test_ids_are_the_servers_own(server):
    """A caller's id names nothing: not its request, and nobody else's."""
    body = {"messages": USER, "request_id": "mine", "user": "mine"}
    headers = {"x-request-id": "mine"}
    seen = set()
    for _ in range(2):
        response = await server.http.post("/v1/chat/completions", json=body, headers=headers)
        seen |= {response.json()["id"], response.headers["x-request-id"]}
    assert len(seen) == 2
    assert "mine" not in seen


async def test_no_endpoint_changes_the_server(server):
    """No door to weights, caches, profiles or shutdown: these are all the paths there are."""
    schema = (await server.http.get("/schema/openapi.json")).json()
    assert set(schema["paths"]) == {
        "/health",
        "/live",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/version",
    }
    changing = {path for path, item in schema["paths"].items() if item.keys() - {"get", "head"}}
    assert changing == {"/v1/chat/completions", "/v1/completions"}


async def test_a_websocket_is_not_opened(start, configure):
    from urllib.parse import urlsplit

    from tests.server.test_bounds import exchange

    async with start(configure(server={"api_keys": ("k",)})) as locked:
        host = urlsplit(locked.url).netloc
        upgrade = (
            f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\n"
            "upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        closing = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        answer = await exchange(locked, upgrade.encode(), closing)
    assert b" 101 " not in answer
    assert answer.startswith(b"HTTP/1.1 401")
