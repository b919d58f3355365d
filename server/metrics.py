"""``/metrics``: what the exporter collected. With API keys in force it needs one, like the rest;
the separate port of metrics.port, meant for an inner network, does not."""

from collections.abc import Sequence
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from ..core.contracts.exporter import Exporter
from ..core.contracts.route import RouteGroup

__all__ = ("MetricsRoutes",)


class MetricsRoutes(RouteGroup):
    """One endpoint, rendered on demand."""

    def handlers(self) -> Sequence[Any]:
        """The endpoint."""

        @get("/metrics", summary="Metrics in the exporter's format", media_type="text/plain")
        async def metrics(exporter: NamedDependency[Exporter]) -> Response[bytes]:
            body, content_type = exporter.render()
            # As a header: a media type of text would be given a second charset.
            return Response(body, headers={"content-type": content_type})

        return [metrics]
