"""A client for OpenAI-compatible servers: one connection a request, events as they arrive.

Standard library alone, so that measuring a server adds little beside the server's own time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..core.errors import ConfigError, QuireError

__all__ = ("Remote", "RemoteError")

MAX_HEADER = 2**16
MAX_ERROR = 2**20


class RemoteError(QuireError):
    """A server refused, or broke off."""


class Remote:
    """An OpenAI-compatible server.

    Args:
        url: such as ``http://127.0.0.1:8000``; with or without ``/v1``.
        api_key: sent as a bearer token.

    Raises:
        ConfigError: when the URL is none.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        try:
            parts = urlsplit(url if "//" in url else "http://" + url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url must be like http://127.0.0.1:8000, not {url!r}")
        self.url = url
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = f"Host: {parts.netloc}\r\nConnection: close\r\nAccept: */*\r\n"
        if api_key:
            self._headers += f"Authorization: Bearer {api_key}\r\n"

    async def call(self, path: str, body: Any = None) -> dict[str, Any]:
        """The decoded JSON answer to a GET, or to a POST when there is a body.

        Raises:
            RemoteError: when nobody answers, or with an error.
        """
        async with self._request(path, body) as pieces:
            return self._decoded(b"".join([piece async for piece in pieces]))

    async def events(self, path: str, body: Any) -> AsyncIterator[dict[str, Any]]:
        """The events of a streamed answer, decoded, up to ``[DONE]``.

        Raises:
            RemoteError: as ``call``, or when the stream holds an error or ends early.
        """
        async with self._request(path, body) as pieces:
            rest = b""
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = self._decoded(data)
                    if event.get("error"):
                        raise RemoteError(f"the server broke off: {_message(data)}")
                    yield event
        raise RemoteError("the stream ended before [DONE]; the server may have stopped")

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise RemoteError(
                f"the server at {self.url} does not speak OpenAI's protocol: it sent {data[:60]!r}"
            ) from error

    async def models(self) -> dict[str, dict[str, Any]]:
        """What the server says of its models, by name; at least one.

        Raises:
            RemoteError: as ``call``, or when it names none.
        """
        data = (await self.call("/v1/models")).get("data")
        entries = (
            [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        )
        named = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
        if not named:
            raise RemoteError(f"the server at {self.url} names no model; give one")
        return named

    async def model(self) -> str:
        """The first model that the server names."""
        return next(iter(await self.models()))

    @asynccontextmanager
    async def _request(self, path: str, body: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        data = b"" if body is None else msgspec.json.encode(body)
        head = f"{'GET' if body is None else 'POST'} {self._base}{path} HTTP/1.1\r\n{self._headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        try:
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, limit=MAX_HEADER
            )
        except OSError as error:
            raise RemoteError(
                f"no server answers at {self.url} ({error.strerror or error}); "
                "start one with `quire serve`"
            ) from error
        try:
            writer.write(head.encode("latin-1") + b"\r\n" + data)
            await writer.drain()
            status, headers = await _read_head(reader)
            pieces = _pieces(reader, headers)
            if status != 200:
                text = b"".join([piece async for piece in pieces])[:MAX_ERROR]
                raise RemoteError(f"the server answered {status}: {_message(text)}")
            yield pieces
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise RemoteError(f"the connection to {self.url} broke ({error})") from error
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    protocol, _, rest = lines[0].partition(" ")
    if not protocol.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise RemoteError(f"the answer is not HTTP: {lines[0][:60]!r}")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body, piece by piece, in whichever of HTTP's three framings it comes."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(2**16):
            yield piece


def _message(data: bytes) -> str:
    """The message of an OpenAI error object, or the first line of whatever it is."""
    try:
        error = msgspec.json.decode(data)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (msgspec.DecodeError, KeyError, TypeError):
        return (data.decode(errors="replace").splitlines() or [""])[0][:200]
