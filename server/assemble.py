"""The composition root: a resolved configuration and a running engine become one application."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Response, Router
from litestar.di import Provide
from litestar.exceptions import LitestarException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from .. import __version__
from ..core.config import Config
from ..core.contracts.exporter import Exporter
from ..core.contracts.route import RouteGroup
from ..core.errors import PluginError
from ..core.registry import Registry
from .auth import ACCESS, KeyAuth, Keys
from .body import JSONRequest
from .errors import error_response
from .gate import Gate
from .metrics import MetricsRoutes

if TYPE_CHECKING:
    from ..core.async_llm import AsyncLLM

__all__ = ("assemble", "make_exporter", "metrics_app")

SCHEMA_PATH = "/schema"


def make_exporter(config: Config, registry: Registry, engine: "AsyncLLM") -> Exporter | None:
    """The exporter that the configuration names, watching the engine; None with metrics off."""
    if not config.metrics.enabled:
        return None
    exporter: Exporter = registry.make("exporter", config.metrics.exporter, config)
    exporter.engine(engine.stats)
    engine.add_observer(exporter)
    return exporter


def assemble(
    config: Config, registry: Registry, engine: "AsyncLLM", gate: Gate, exporter: Exporter | None
) -> Litestar:
    """Every route group that config.server.routes names, behind keys, limits and error objects.

    Raises:
        ConfigError: when no plugin provides a named group.
        PluginError: when two groups serve the same path, or a group is broken.
    """
    names = [name for name in config.server.routes if exporter or name != "metrics"]
    routers: list[Router] = []
    owners: dict[str, str] = {SCHEMA_PATH: "schema"}
    for name in dict.fromkeys(names):
        group: RouteGroup = registry.make("route", name, config, registry, engine)
        router = _router(name, group)
        _claim(owners, name, router)
        routers.append(router)
    keys = Keys(config.server.api_keys)
    dependencies: dict[str, Any] = {"gate": gate, "exporter": exporter}
    return Litestar(
        route_handlers=routers,
        dependencies={key: _provide(value) for key, value in dependencies.items() if value},
        middleware=[KeyAuth(keys)],
        exception_handlers={Exception: _handler(keys)},
        request_class=JSONRequest,
        request_max_body_size=config.server.max_body_bytes,
        openapi_config=OpenAPIConfig(
            title="quire",
            version=__version__,
            path=SCHEMA_PATH,
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
    )


def metrics_app(config: Config, registry: Registry, engine: "AsyncLLM", exporter: Exporter) -> Any:
    """The application of the separate metrics port: ``/metrics`` and nothing else, without keys."""
    return Litestar(
        route_handlers=list(MetricsRoutes(config, registry, engine).handlers()),
        dependencies={"exporter": _provide(exporter)},
        exception_handlers={Exception: _handler(Keys(()))},
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def _router(name: str, group: RouteGroup) -> Router:
    try:
        handlers: Sequence[Any] = group.handlers()
        return Router(path="/", route_handlers=handlers, opt={ACCESS: group.access})
    except LitestarException as error:
        raise PluginError(
            f"the route group {name!r} cannot be served ({str(error)[:200]}); "
            "update its plugin or drop it from server.routes"
        ) from error


def _claim(owners: dict[str, str], name: str, router: Router) -> None:
    for route in router.routes:
        path = _shape(route.path)
        taken = owners.setdefault(path, name)
        if taken == name:
            continue
        raise PluginError(
            f"the route groups {taken!r} and {name!r} both serve {route.path}; "
            "drop one of them from server.routes"
        )


def _shape(path: str) -> str:
    """A path with its parameters' names and types left out: two of one shape are one route."""
    parts = path.strip("/").split("/")
    return "/" + "/".join("{}" if part.startswith("{") else part for part in parts)


def _provide(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _handler(keys: Keys) -> Callable[[Request[Any, Any, Any], Exception], Response[bytes]]:
    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        return error_response(keys.mask(error, request.scope["headers"]))

    return handle
