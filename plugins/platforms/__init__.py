"""Platforms: the devices that quire runs on."""

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """CPUs, and GPUs by CUDA."""
    return Manifest(
        name="platforms",
        version=__version__,
        contracts={"platform": VERSIONS["platform"]},
        provides=(
            Provision("platform", "cpu", "quire.plugins.platforms.cpu:CPU"),
            Provision("platform", "cuda", "quire.plugins.platforms.cuda:CUDA"),
        ),
    )
