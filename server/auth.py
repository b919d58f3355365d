"""API keys: denied unless the handler that will run belongs to an open group.

The decision reads the routed handler and never the path, so no way of writing a path (doubled or
trailing slashes, percent escapes, another case) can reach a handler under another's rule.
"""

import hmac
from collections.abc import Iterable
from typing import Any

from litestar.exceptions import HTTPException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from .errors import APIError

__all__ = ("ACCESS", "KeyAuth", "Keys")

ACCESS = "quire_access"


class Keys:
    """The API keys of the server.

    Args:
        keys: empty lets everybody in.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether ``Authorization: Bearer`` carries a key, in the same time for any wrong one."""
        if not self._keys:
            return True
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    def denial(self) -> APIError:
        """What a caller without a key is told."""
        return APIError(
            401,
            "a valid API key is needed: send it as 'Authorization: Bearer KEY'",
            "invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )

    def mask(self, error: Exception, headers: Iterable[tuple[bytes, bytes]]) -> Exception:
        """The error, or the denial where it would tell a stranger which paths exist."""
        hidden = isinstance(error, HTTPException) and error.status_code in (404, 405)
        return self.denial() if hidden and not self.admit(headers) else error


class KeyAuth(ASGIMiddleware):
    """Lets a request through to its handler when the handler is open or the caller has a key.

    Args:
        keys: of the server.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Raise the denial, or go on."""
        handler: Any = scope["route_handler"]
        is_open = handler.opt.get(ACCESS) == "open"
        if not is_open and not self._keys.admit(scope["headers"]):
            raise self._keys.denial()
        await next_app(scope, receive, send)
