"""What this distribution adds to quire; the parts are imported when somebody asks for them."""

from quire import hookimpl
from quire.core.hooks import Manifest, Provision

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """A policy, an architecture, a quantization method, a speculator and a group of routes."""
    return Manifest(
        name="example",
        version="1.0.0",
        contracts={"policy": 1, "model": 1, "quant": 1, "route": 1, "speculator": 1},
        provides=(
            Provision("policy", "shortest", "quire_example_plugin.policy:ShortestPrompt"),
            Provision("model", "ParallelForCausalLM", "quire_example_plugin.model:Parallel"),
            Provision("quant", "ternary", "quire_example_plugin.ternary:Ternary"),
            Provision("speculator", "bigrams", "quire_example_plugin.bigrams:Bigrams"),
            Provision("route", "example", "quire_example_plugin.routes:ExampleRoutes"),
        ),
    )
