"""Whatever is sent, the server answers with no 5xx, and failures are error objects."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.server.openai.protocol import ChatRequest, CompletionRequest

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "user", "text", "auto", 0, 1, -1, 2**31, [], {}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
    optional={"content": st.text(max_size=20) | ANY, "tool_calls": ANY, "name": ANY},
)


def bodies(request: type, **required):
    """Bodies with the fields of the struct, mostly of the wrong kind."""
    optional = {name: ANY for name in request.__struct_fields__ if name not in required}
    some = st.sets(st.sampled_from(sorted(optional)), max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: optional[name] for name in names})
    )
    return st.tuples(st.fixed_dictionaries(required), some).map(lambda both: both[0] | both[1])


CHAT = bodies(ChatRequest, messages=st.lists(MESSAGE, min_size=1, max_size=3))
COMPLETION = bodies(CompletionRequest, prompt=st.text(max_size=10) | ANY)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def judge(response):
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(response.content) < 2000
        assert "object at 0x" not in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)],
    ids=["chat", "completions"],
)
async def test_bodies(server, path, body):
    @FUZZ
    @given(st.data())
    def generate(data):
        sent.append(data.draw(body))

    sent: list[object] = []
    generate()
    for one in sent:
        content = json.dumps(one).encode()
        headers = {"content-type": "application/json"}
        judge(await server.http.post(path, content=content, headers=headers))


async def test_bytes(server):
    @FUZZ
    @given(st.binary(max_size=40), st.sampled_from(["application/json", "text/plain", "a/b;c", ""]))
    def generate(content, kind):
        sent.append((content, kind))

    sent: list[tuple[bytes, str]] = []
    generate()
    for content, kind in sent:
        headers = {"content-type": kind}
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/x"):
            judge(await server.http.post(path, content=content, headers=headers))


async def test_paths(server):
    @FUZZ
    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
    def generate(path):
        sent.append(path)

    sent: list[str] = []
    generate()
    for path in sent:
        for prefix in ("/", "/v1/", "/v1/models/"):
            # As a whole URL: the client takes what begins with two slashes for a host.
            judge(await server.http.get(server.url + prefix + path.strip("#?")))
