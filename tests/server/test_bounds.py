"""Limits on what comes before a body, on the wire."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from quire.server.bounds import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PENDING_BYTES

END = b"\r\n\r\n"


async def exchange(server, *pieces: bytes) -> bytes:
    """All that comes back for these bytes, sent one after the other."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def request(headers: bytes) -> bytes:
    return b"GET /health HTTP/1.1\r\nconnection: close\r\n" + headers + END


async def test_heads_within_the_limits_pass(server):
    fits = b"x: " + b"a" * (MAX_HEAD_BYTES - 100)
    assert status_of(await exchange(server, request(fits))) == 200
    many = b"\r\n".join(b"x: y" for _ in range(MAX_HEADERS - 1))
    assert status_of(await exchange(server, request(many))) == 200


@pytest.mark.parametrize(
    "head",
    [
        request(b"x: " + b"a" * MAX_HEAD_BYTES),
        request(b"\r\n".join(b"x: " + b"a" * 100 for _ in range(1000))),
        request(b"\r\n".join(b"x: y" for _ in range(MAX_HEADERS + 1))),
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1" + END,
    ],
    ids=["one large", "large together", "many", "long path"],
)
async def test_large_heads_are_refused(server, head):
    answer = await exchange(server, head)
    assert status_of(answer) == 431
    assert json.loads(answer.split(END)[1])["error"]["code"] == "headers_too_large"


async def test_a_head_that_never_ends_is_refused(server):
    pieces = [b"a" * 2**14] * (MAX_PENDING_BYTES // 2**14 + 8)
    answer = await exchange(server, b"GET / HTTP/1.1\r\nx: ", *pieces)
    # The refusal may be lost when the kernel resets a connection with unread bytes.
    assert not answer or status_of(answer) == 431


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01" + bytes(50),
        b"GET /\xff HTTP/1.1" + END,
    ],
    ids=str,
)
async def test_what_is_not_http_is_refused(server, garbage):
    answer = await exchange(server, garbage)
    assert status_of(answer) in (400, 404)
    assert b'"error"' in answer


async def test_large_bodies_do_not_count_as_heads(server):
    body = json.dumps({"prompt": "x" * (2 * MAX_PENDING_BYTES), "max_tokens": 1}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nconnection: %s\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    first = head % (b"keep-alive", len(body)) + body
    second = head % (b"close", len(body)) + body
    answer = await exchange(server, first, second)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
