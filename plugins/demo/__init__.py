"""The embedded demonstration model: its weights and the programs that made them."""

from pathlib import Path

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.contracts.checkpoint import NamedCheckpoint
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("Demo", "DemoDraft", "quire_manifest")


class Demo(NamedCheckpoint):
    """The model that is served when none is named."""

    def folder(self) -> Path:
        """Inside the package."""
        return Path(__file__).parent / "model"


class DemoDraft(NamedCheckpoint):
    """A smaller model with the same tokenizer, to draft for it."""

    def folder(self) -> Path:
        """Inside the package."""
        return Path(__file__).parent / "draft"


@hookimpl
def quire_manifest() -> Manifest:
    """The two checkpoints."""
    return Manifest(
        name="demo",
        version=__version__,
        contracts={"checkpoint": VERSIONS["checkpoint"]},
        provides=(
            Provision("checkpoint", "demo", "quire.plugins.demo:Demo"),
            Provision("checkpoint", "demo-draft", "quire.plugins.demo:DemoDraft"),
        ),
    )
