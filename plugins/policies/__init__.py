"""Scheduling policies."""

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """First come first served, and by the caller's priority."""
    return Manifest(
        name="policies",
        version=__version__,
        contracts={"policy": VERSIONS["policy"]},
        provides=(
            Provision("policy", "fcfs", "quire.plugins.policies.fcfs:FirstComeFirstServed"),
            Provision("policy", "priority", "quire.plugins.policies.priority:ByPriority"),
        ),
    )
