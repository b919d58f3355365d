"""Request bodies: one decode, from bytes straight into the handler's typed struct."""

from functools import lru_cache
from typing import Any

import msgspec
from litestar import Request

from .errors import APIError, invalid_json

__all__ = ("JSONRequest",)


class JSONRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded once, strictly, into what the handler declares."""

    async def json(self) -> Any:
        """The body as the type of the handler's ``data``.

        Raises:
            APIError: 415 for another content type; 400 for malformed JSON or a wrong value.
        """
        kind = self.content_type[0].lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise APIError(
                415,
                "send the body as JSON with 'Content-Type: application/json'",
                "unsupported_media_type",
            )
        field = self.route_handler.parsed_data_field
        decoder = _decoder(field.annotation if field else Any)
        body = await self.body()
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None


@lru_cache(maxsize=64)
def _decoder(annotation: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(annotation)
