"""The composition root: groups by name, collisions refused, one schema for all."""

import httpx
import pytest
from litestar import get, post

from quire.core.contracts.route import RouteGroup
from quire.core.errors import ConfigError, PluginError
from quire.server.assemble import metrics_app
from quire.server.listen import address, bound, listener
from tests.server.plugins import registry_with


def group(*paths: str) -> type[RouteGroup]:
    class Group(RouteGroup):
        def handlers(self):
            async def handler() -> str:
                return "from a plugin"

            return [(post if "chat" in path else get)(path)(handler) for path in paths]

    return Group


async def enter(start, configure, routes, **groups):
    config = configure(server={"routes": routes})
    async with start(config, registry_with(**groups)) as server:
        return await server.http.get("/hello")


async def test_a_plugin_adds_an_endpoint(start, configure):
    response = await enter(start, configure, ("health", "mine"), mine=group("/hello"))
    assert response.text == "from a plugin"


async def test_installed_groups_are_served_only_when_named(start, configure):
    response = await enter(start, configure, ("health",), mine=group("/hello"))
    assert response.status_code == 404


@pytest.mark.parametrize(
    ("paths", "other"),
    [
        (("/health",), "health"),
        (("/health/",), "health"),
        (("/v1/chat/completions",), "openai"),
        (("/v1/models/{other:str}",), "openai"),
        (("/ok", "/metrics"), "metrics"),
        (("/schema",), "schema"),
    ],
    ids=str,
)
async def test_colliding_paths_stop_the_start(start, configure, paths, other):
    routes = ("openai", "health", "metrics", "mine")
    with pytest.raises(PluginError, match=rf"'{other}' and 'mine' both serve /") as caught:
        await enter(start, configure, routes, mine=group(*paths))
    assert "server.routes" in str(caught.value)


async def test_a_broken_group_stops_the_start(start, configure):
    with pytest.raises(PluginError, match="'mine' cannot be served"):
        await enter(start, configure, ("mine",), mine=group("/a/{b:nonsense}"))


async def test_an_unknown_group_stops_the_start(start, configure):
    with pytest.raises(ConfigError, match="did you mean 'openai'"):
        await enter(start, configure, ("openia",))


async def test_the_schema_describes_bodies_and_answers(server):
    schema = (await server.http.get("/schema/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
    answer = chat["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    components = schema["components"]["schemas"]
    assert {"messages", "temperature", "stream"} <= set(components[body]["properties"])
    assert "choices" in components[answer.split("/")[-1]]["properties"]


async def test_metrics_can_be_off(start, configure):
    async with start(configure(metrics={"enabled": False})) as server:
        assert (await server.http.get("/metrics")).status_code == 404
        assert server.exporter is None


async def test_the_separate_metrics_port_has_metrics_alone(server, configure):
    config = configure(server={"api_keys": ("k",)})
    app = metrics_app(config, None, server.engine, server.exporter)
    with bound("127.0.0.1", 0, "metrics.port") as sock:
        url = address("127.0.0.1", sock)
        async with listener(app, sock), httpx.AsyncClient(base_url=url) as http:
            assert "vllm:num_requests_running" in (await http.get("/metrics")).text
            for path in ("/v1/models", "/health", "/schema/openapi.json"):
                response = await http.get(path)
                assert response.status_code == 404
                assert response.json()["error"]["code"] == "unknown_url"


def test_a_taken_port_is_refused_with_advice():
    with bound("127.0.0.1", 0, "server.port") as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 .*another server.port"),
            bound("127.0.0.1", port, "server.port"),
        ):
            pass


def test_a_host_that_is_not_ours_is_refused():
    with pytest.raises(ConfigError, match=r"server\.host"), bound("no host", 0, "server.port"):
        pass


async def test_served_name(start, configure):
    config = configure(server={"served_model_name": "org/name"})
    async with start(config) as server:
        assert (await server.client.models.retrieve("org/name")).root == "demo"
        answer = await server.client.completions.create(model="org/name", prompt="x")
        assert answer.model == "org/name"


async def test_the_schema_describes_errors_as_they_are(server):
    schema = (await server.http.get("/schema/openapi.json")).json()
    for path in ("/v1/chat/completions", "/v1/completions"):
        answers = schema["paths"][path]["post"]["responses"]
        for status in ("400", "401", "404", "413", "415", "500", "503"):
            body = answers[status]["content"]["application/json"]["schema"]["$ref"]
            assert body.endswith("/ErrorBody")
    metrics = schema["paths"]["/metrics"]["get"]["responses"]["200"]
    assert list(metrics["content"]) == ["text/plain"]
