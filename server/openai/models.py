"""GET /v1/models: the model that is served, under the name clients use."""

import time
from typing import Any

from litestar import get
from litestar.params import FromPath

from ...core.config import Config
from ..errors import ERRORS, APIError
from .responses import Model, ModelList

__all__ = ("check_model", "model_handlers", "served_name")

_ERRORS = {status: ERRORS[status] for status in (400, 401, 404)}


def served_name(config: Config) -> str:
    """The name that requests must use."""
    return config.server.served_model_name or config.model.name


def check_model(config: Config, asked: str | None) -> str:
    """The served name.

    Raises:
        APIError: 404 when the request asks for another.
    """
    name = served_name(config)
    if asked is None or asked == name:
        return name
    raise APIError(
        404, f"model must be {name!r}, the one served here", "model_not_found", param="model"
    )


def model_handlers(config: Config) -> list[Any]:
    """The list, and the one by name."""
    served = Model(
        id=served_name(config),
        created=int(time.time()),
        owned_by="quire",
        root=config.model.name,
        max_model_len=config.model.max_model_len,
    )

    @get("/v1/models", summary="The models served", responses=_ERRORS)
    async def list_models() -> ModelList:
        return ModelList(data=[served])

    @get("/v1/models/{name:path}", summary="One model", responses=_ERRORS)
    async def retrieve_model(name: FromPath[str]) -> Model:
        # Litestar gives what is left of the path with a slash in front.
        check_model(config, name if name == served.id else name.removeprefix("/"))
        return served

    return [list_models, retrieve_model]
