"""The embedded demonstration model and what drafts for it: weights, and programs that made them."""

from pathlib import Path

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.contracts.checkpoint import NamedCheckpoint
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("Demo", "DemoDraft", "DemoEagle", "quire_manifest")


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


class DemoEagle(NamedCheckpoint):
    """An EAGLE-3 head for the model."""

    only_drafts = True

    def folder(self) -> Path:
        """Inside the package."""
        return Path(__file__).parent / "eagle"


@hookimpl
def quire_manifest() -> Manifest:
    """The checkpoints."""
    return Manifest(
        name="demo",
        version=__version__,
        contracts={"checkpoint": VERSIONS["checkpoint"]},
        provides=(
            Provision("checkpoint", "demo", "quire.plugins.demo:Demo"),
            Provision("checkpoint", "demo-draft", "quire.plugins.demo:DemoDraft"),
            Provision("checkpoint", "demo-eagle", "quire.plugins.demo:DemoEagle"),
        ),
    )
