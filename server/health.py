"""Health and version: for probes, so without a key."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import msgspec
from litestar import HttpMethod, Response, route
from litestar.di import NamedDependency

from .. import __version__
from ..core.contracts.route import Access, RouteGroup
from .gate import Gate

__all__ = ("Health", "HealthRoutes", "Version")

# Load balancers ask by HEAD, which is answered as GET without a body.
_METHODS = (HttpMethod.GET, HttpMethod.HEAD)


class Health(msgspec.Struct, frozen=True):
    """The state of the server."""

    status: Literal["ok", "draining", "dead"]


class Version(msgspec.Struct, frozen=True):
    """What runs here."""

    version: str


class HealthRoutes(RouteGroup):
    """``/health`` says whether work is taken, ``/live`` whether a restart is called for.

    While the engine starts both answer 503 (the gate does); while requests drain only ``/health``
    does, so that a probe of liveness does not kill a server that is finishing its work.
    """

    access: ClassVar[Access] = "open"

    def handlers(self) -> Sequence[Any]:
        """The three endpoints."""
        engine = self.engine

        @route("/health", http_method=_METHODS, summary="Whether requests are taken")
        async def health(gate: NamedDependency[Gate]) -> Response[Health]:
            if not engine.alive:
                return Response(Health("dead"), status_code=503)
            if gate.phase == "draining":
                return Response(Health("draining"), status_code=503)
            return Response(Health("ok"))

        @route("/live", http_method=_METHODS, summary="Whether the engine is alive")
        async def live() -> Response[Health]:
            alive = engine.alive
            return Response(Health("ok" if alive else "dead"), status_code=200 if alive else 503)

        @route("/version", http_method=_METHODS, summary="The version that runs")
        async def version() -> Version:
            return Version(__version__)

        return [health, live, version]
