"""Model families, by the architecture names of Hugging Face configs."""

from ... import __version__
from ...core.contracts import VERSIONS
from ...core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The families."""
    here = "quire.plugins.models"
    return Manifest(
        name="models",
        version=__version__,
        contracts={"model": VERSIONS["model"]},
        provides=(
            Provision("model", "LlamaForCausalLM", f"{here}.llama:Llama"),
            Provision("model", "MistralForCausalLM", f"{here}.mistral:Mistral"),
            Provision("model", "Qwen2ForCausalLM", f"{here}.qwen2:Qwen2"),
            Provision("model", "Qwen3ForCausalLM", f"{here}.qwen3:Qwen3"),
        ),
    )
