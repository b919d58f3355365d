"""The HTTP server: knows HTTP and JSON, and reaches the engine through ``AsyncLLM`` alone."""

from .. import __version__
from ..core.contracts import VERSIONS
from ..core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The built-in groups of endpoints."""
    return Manifest(
        name="server",
        version=__version__,
        contracts={"route": VERSIONS["route"]},
        provides=(
            Provision("route", "openai", "quire.server.openai:OpenAIRoutes"),
            Provision("route", "health", "quire.server.health:HealthRoutes"),
            Provision("route", "metrics", "quire.server.metrics:MetricsRoutes"),
        ),
    )
