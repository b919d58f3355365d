"""HTTP/1.1 on the wire: bounds on what comes before a body, and errors in the house's shape."""

from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import APIError, error_body

__all__ = ("MAX_HEADERS", "MAX_HEAD_BYTES", "BoundedProtocol")

MAX_HEADERS = 128
MAX_HEAD_BYTES = 64 * 1024
MAX_PENDING_BYTES = 4 * MAX_HEAD_BYTES

_MALFORMED = APIError(400, "the request is not valid HTTP/1.1", "invalid_http")
_TOO_LARGE = APIError(
    431,
    f"the request's head is over {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes",
    "headers_too_large",
)


class _HeadTooLarge(Exception):
    """Raised inside a parser callback, which ends the parse."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the request line and headers.

    The parser reports a header when it is complete and buffers it without bound until then, so
    reads that end inside a head are counted as well.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._pending_bytes = 0
        self._refusal = _MALFORMED

    def data_received(self, data: bytes) -> None:
        """Parse, then count what began and ended inside a head."""
        began_in_head = self._in_head
        super().data_received(data)
        if began_in_head and self._in_head and not self.transport.is_closing():
            self._pending_bytes += len(data)
            if self._pending_bytes > MAX_PENDING_BYTES:
                self._refusal = _TOO_LARGE
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A new request on this connection."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._pending_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head ends here."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse and close, with an error object in place of uvicorn's text."""
        body = msgspec.json.encode(error_body(self._refusal))
        head = (
            b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[self._refusal.status] + head + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._refusal = _TOO_LARGE
            raise _HeadTooLarge
