"""How weights are stored and multiplied."""

from .. import __version__
from ..core.contracts import VERSIONS
from ..core.hooks import Manifest, Provision, hookimpl

__all__ = ("quire_manifest",)


@hookimpl
def quire_manifest() -> Manifest:
    """The quantization methods."""
    return Manifest(
        name="quant",
        version=__version__,
        contracts={"quant": VERSIONS["quant"]},
        provides=(
            Provision("quant", "none", "quire.quant.unquantized:Unquantized"),
            Provision("quant", "awq", "quire.quant.awq:AWQ"),
            Provision("quant", "gptq", "quire.quant.gptq:GPTQ"),
            Provision("quant", "fp8", "quire.quant.fp8:Float8"),
            Provision("quant", "int8", "quire.quant.int8:Int8"),
            Provision(
                "quant",
                "compressed-tensors",
                "quire.quant.compressed_tensors:CompressedTensors",
            ),
        ),
    )
