"""Keys: denied by default, whatever way a path is written."""

import asyncio
from urllib.parse import urlsplit

import openai
import pytest
import pytest_asyncio
from litestar import Request, get

from quire.core.contracts.route import RouteGroup
from tests.server.plugins import registry_with

KEYS = ("first-key", "zweiter-schlüssel")
OPEN = {"/health", "/live", "/version"}
PATHS = [
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/metrics",
    "/schema/openapi.json",
]


async def raw(server, method: str, target: str, headers: str = "") -> int:
    """The status of a request whose target goes out as it is written."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(f"{method} {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


@pytest_asyncio.fixture(loop_scope="session")
async def locked(start, configure):
    async with start(configure(server={"api_keys": KEYS})) as server:
        yield server


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
async def test_nothing_but_the_open_group_without_a_key(locked, path):
    variants = {
        path,
        path + "/",
        "/" + path,
        path.replace("/", "//"),
        path.upper(),
        path.title(),
        path.replace("v1", "V1"),
        path.replace("/v1/", "/v1%2f"),
        path.replace("/v1/", "/%76%31/"),
        path.replace("m", "%6d", 1),
        path + "?key=first-key",
        "/health/.." + path,
        "/health/%2e%2e" + path,
        "/health" + path,
        "http://host" + path,
    }
    for variant in variants:
        for method in ("GET", "POST", "OPTIONS", "HEAD", "DELETE"):
            status = await raw(locked, method, variant)
            assert status == 401, (method, variant, status)


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_the_open_group_needs_no_key(locked, path):
    assert (await locked.http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-keyy",
        "Bearer FIRST-KEY",
        "Basic first-key",
        "first-key",
        "Bearer first-key zweiter-schlüssel",
        "Bearer first-key,",
    ],
)
async def test_wrong_keys(locked, header):
    headers = {"authorization": header.encode()}
    response = await locked.http.get("/v1/models", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", KEYS)
async def test_every_key_opens_every_path(locked, key):
    headers = {"authorization": f"Bearer {key}".encode()}
    for path in PATHS:
        status = (await locked.http.get(path, headers=headers)).status_code
        assert status == (405 if path.endswith("completions") else 200)
    assert (await locked.http.get("/nothing", headers=headers)).status_code == 404


async def test_the_client_sends_keys(start, configure):
    config = configure(server={"api_keys": KEYS})
    async with start(config, key="first-key") as server:
        assert (await server.client.models.list()).data[0].id == "demo"
    async with start(config, key="second-key") as server:
        with pytest.raises(openai.AuthenticationError):
            await server.client.models.list()


async def test_a_denied_body_is_not_read(locked):
    head = "content-length: 9999999999\r\ncontent-type: application/json\r\n"
    assert await raw(locked, "POST", "/v1/completions", head) == 401


class Forgetful(RouteGroup):
    """A plugin's group that says nothing about access."""

    def handlers(self):
        @get("/mine/{name:str}")
        async def mine(request: Request) -> str:
            return "x"

        return [mine]


async def test_a_group_that_declares_nothing_needs_a_key(start, configure):
    registry = registry_with(forgetful=Forgetful)
    config = configure(server={"api_keys": KEYS, "routes": ("health", "forgetful")})
    async with start(config, registry) as server:
        assert (await server.http.get("/mine/1")).status_code == 401
        assert (await server.http.get("/health")).status_code == 200
