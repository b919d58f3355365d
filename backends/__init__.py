"""How attention and elementwise kernels are computed."""

from .. import __version__
from ..core.contracts import VERSIONS
from ..core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The attention backends."""
    return Manifest(
        name="backends",
        version=__version__,
        contracts={"attention": VERSIONS["attention"]},
        provides=(
            Provision("attention", "reference", "quire.backends.attention.reference:Reference"),
            Provision("attention", "cpu", "quire.backends.attention.cpu:CPUAttention"),
            Provision(
                "attention", "triton_paged", "quire.backends.attention.triton_paged:TritonPaged"
            ),
            Provision(
                "attention", "triton_alike", "quire.backends.attention.triton_alike:TritonAlike"
            ),
        ),
    )
