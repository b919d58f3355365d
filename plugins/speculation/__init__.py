"""Speculators: who proposes the drafts that the model verifies."""

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The built-in speculators."""
    return Manifest(
        name="speculation",
        version=__version__,
        contracts={"speculator": VERSIONS["speculator"]},
        provides=(
            Provision(
                "speculator", "draft_model", "quire.plugins.speculation.draft_model:DraftModel"
            ),
            Provision("speculator", "eagle", "quire.plugins.speculation.eagle:Eagle"),
            Provision("speculator", "eagle3", "quire.plugins.speculation.eagle:Eagle3"),
            Provision("speculator", "suffix", "quire.plugins.speculation.suffix:SuffixLookup"),
            Provision("speculator", "ngram", "quire.plugins.speculation.ngram:PromptLookup"),
        ),
    )
