"""The core's own parts, registered through the same door as everybody's."""

from .. import __version__
from .contracts import VERSIONS
from .hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The default scheduler and the executor that runs in the engine's own process."""
    return Manifest(
        name="core",
        version=__version__,
        contracts={kind: VERSIONS[kind] for kind in ("scheduler", "executor")},
        provides=(
            Provision("scheduler", "default", "quire.core.schedule.default:DefaultScheduler"),
            Provision("executor", "inline", "quire.core.parallel.inline:InlineExecutor"),
        ),
    )
