"""Plain weights through the platform's product."""

import pytest
import torch

from quire.core.contracts.quant import LinearSpec
from quire.core.errors import CheckpointError
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import Unquantized
from quire.testing import QuantCase, check_quant

SHARDS = ("a.q_proj", "a.k_proj", "a.v_proj")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("shards", [1, 3])
def test_conformance(bias: bool, dtype: str, tolerance: float, shards: int) -> None:
    widths = (24, 8, 8)[:shards]
    spec = LinearSpec(
        shards=SHARDS[:shards], out_features=widths, in_features=40, bias=bias, dtype=dtype
    )
    at = getattr(torch, dtype)
    weights = [torch.randn(width, 40).to(at) for width in widths]
    biases = [torch.randn(width).to(at) for width in widths] if bias else []
    stored = {f"{name}.weight": w for name, w in zip(spec.shards, weights, strict=True)}
    if bias:
        stored |= {f"{name}.bias": b for name, b in zip(spec.shards, biases, strict=True)}
    method = Unquantized.from_checkpoint(None, CPU())
    whole = torch.cat(biases).double() if bias else None
    case = QuantCase(method, spec, stored, torch.cat(weights).double(), whole, tolerance)
    check_quant(lambda: [case])
    assert not method.covers("a.q_proj")


def test_stored_in_another_float() -> None:
    spec = LinearSpec(shards=("a",), out_features=(4,), in_features=8)
    weight = torch.randn(4, 8).half()
    method = Unquantized(CPU())
    case = QuantCase(method, spec, {"a.weight": weight}, weight.double(), None, 1e-5)
    check_quant(lambda: [case])


def test_quantized_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="awq"):
        Unquantized.from_checkpoint({"quant_method": "awq"}, CPU())
