"""OpenAI error objects: the one shape in which every failure leaves the server.

A body says what was wrong and what to do. It never holds a traceback, the caller's input or the
representation of an object, and it is never long.
"""

import logging
import re
from http.client import responses

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from ..core.errors import CapacityError, EngineDeadError, InvalidRequest, Overloaded

__all__ = (
    "ERRORS",
    "APIError",
    "ErrorBody",
    "ErrorDetail",
    "describe",
    "error_body",
    "error_response",
    "invalid_json",
    "refused",
)

logger = logging.getLogger("quire.server")

MAX_MESSAGE = 1000
_PATH = re.compile(r" - at (?:`key` in )?`\$?\.?([^`]*)`$")
_CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}
_ADVICE = {
    404: "no such endpoint; see /schema/openapi.json for those there are",
    405: "this endpoint does not take this HTTP method",
    413: "the request's body is larger than server.max_body_bytes allows",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong, as OpenAI's clients read it.

    Attributes:
        message: one sentence for the reader.
        type: ``invalid_request_error`` or ``server_error``.
        param: the field at fault, dotted.
        code: a word for programs.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The whole body of a failed request."""

    error: ErrorDetail


# For the schema: how the endpoints that do work may fail.
ERRORS = {
    status: ResponseSpec(ErrorBody, description=description)
    for status, description in (
        (400, "The request can never be served as it is"),
        (401, "An API key is needed"),
        (404, "No such model"),
        (413, "The body is too large"),
        (415, "The body is not declared as JSON"),
        (500, "The server failed on this request"),
        (503, "Starting, shutting down or overloaded; Retry-After says when to come back"),
    )
}


class APIError(Exception):
    """A failure that knows its HTTP status.

    Args:
        status: HTTP status code.
        message: one sentence for the caller.
        code: a word for programs.
        param: the field at fault.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}


def refused(message: str, code: str, *, retry_after: int) -> APIError:
    """A 503 that asks the client to come back after so many seconds."""
    return APIError(503, message, code, headers={"retry-after": str(retry_after)})


def invalid_json(error: Exception) -> APIError:
    """A body that is no JSON, or none of the shape asked for, without its text."""
    if not isinstance(error, msgspec.ValidationError):
        return APIError(400, "the body is not valid JSON in UTF-8", "invalid_json")
    text = str(error)
    where = _PATH.search(text)
    return _invalid_value(_PATH.sub("", text), where.group(1)[:100] if where else None)


def describe(error: Exception) -> APIError:
    """Whatever went wrong as an APIError; what nobody foresaw is logged and not told."""
    match error:
        case APIError():
            return error
        case InvalidRequest():
            return APIError(400, str(error), "invalid_value", param=error.param)
        case CapacityError():
            return APIError(400, str(error), "context_length_exceeded")
        case Overloaded():
            return refused(str(error), "server_overloaded", retry_after=1)
        case EngineDeadError():
            return APIError(503, "the engine stopped; the server is shutting down", "engine_dead")
        case HTTPException() if error.status_code < 500:
            return _from_litestar(error)
    logger.error("unexpected error in a request", exc_info=error)
    return APIError(
        500, "the server failed on this request; its log has the reason", "internal_error"
    )


def error_body(error: APIError) -> ErrorBody:
    """The body to send."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    message = str(error)[:MAX_MESSAGE]
    return ErrorBody(ErrorDetail(message, kind, error.param, error.code))


def error_response(error: Exception) -> Response[bytes]:
    """The whole response to send."""
    told = describe(error)
    return Response(
        msgspec.json.encode(error_body(told)),
        status_code=told.status,
        media_type="application/json",
        headers=told.headers,
    )


def _invalid_value(text: str, param: str | None) -> APIError:
    if text.startswith("Invalid "):
        # msgspec names the value here, and nothing else of its texts does
        text = "the value is not one of those allowed"
    if missing := re.search(r"missing required field `(\w+)`", text):
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
    prefix = f"{param}: " if param else ""
    return APIError(400, f"{prefix}{text}", "invalid_value", param=param)


def _from_litestar(error: HTTPException) -> APIError:
    status = error.status_code
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        if first.get("key") == "data":
            return APIError(400, "the request needs a body in JSON", "invalid_json")
        return _invalid_value(str(first.get("message", "")), first.get("key"))
    phrase = responses.get(status, "bad request").lower()
    headers = dict(error.headers or {}) if isinstance(error, MethodNotAllowedException) else {}
    return APIError(
        status,
        _ADVICE.get(status, f"the request was refused: {phrase}"),
        _CODES.get(status, "invalid_request"),
        headers=headers,
    )
