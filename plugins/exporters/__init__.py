"""Exporters: the engine's numbers where operators look."""

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The built-in exporters."""
    return Manifest(
        name="exporters",
        version=__version__,
        contracts={"exporter": VERSIONS["exporter"]},
        provides=(
            Provision("exporter", "prometheus", "quire.plugins.exporters.prometheus:Prometheus"),
        ),
    )
