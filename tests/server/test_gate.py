"""Starting, draining, dead: what callers and probes see."""

import asyncio

import httpx
import pytest

from quire.server.gate import Gate
from quire.server.listen import address, bound, listener
from tests.server.waiting import until

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


async def test_before_the_engine_is_ready_everything_is_503():
    with bound("127.0.0.1", 0, "server.port") as sock:
        url = address("127.0.0.1", sock)
        async with listener(Gate(), sock), httpx.AsyncClient(base_url=url) as http:
            for path in ("/health", "/live", "/v1/models", "/metrics", "/nothing"):
                response = await http.get(path)
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "engine_starting"
                assert int(response.headers["retry-after"]) > 0


async def test_ready(server):
    assert (await server.http.get("/health")).json() == {"status": "ok"}
    assert (await server.http.get("/live")).json() == {"status": "ok"}
    assert (await server.http.get("/version")).json()["version"]


async def test_probes_by_head_are_answered_as_by_get(server):
    for phase in ("serving", "dead"):
        if phase == "dead":
            server.engine.die()
        for path in ("/health", "/live", "/version"):
            got, head = await server.http.get(path), await server.http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-type"] == got.headers["content-type"]


async def test_draining_finishes_what_runs_and_takes_no_more(server):
    server.engine.gate.clear()
    running = asyncio.ensure_future(server.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: bool(server.engine.running))
    server.gate.drain()
    refused = await server.http.post("/v1/chat/completions", json=CHAT)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) > 0
    health = await server.http.get("/health")
    assert (health.status_code, health.json()) == (503, {"status": "draining"})
    assert (await server.http.get("/live")).status_code == 200
    assert (await server.http.get("/metrics")).status_code == 200
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.gate.idle(), 0.05)
    server.engine.gate.set()
    assert (await running).status_code == 200
    await asyncio.wait_for(server.gate.idle(), 5)


async def test_a_dead_engine(server):
    server.engine.die()
    for path in ("/health", "/live"):
        response = await server.http.get(path)
        assert (response.status_code, response.json()) == (503, {"status": "dead"})
    response = await server.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_dead"
    assert "vllm:engine_healthy" in (await server.http.get("/metrics")).text
