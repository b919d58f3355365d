"""Layers against float64 definitions and against transformers' frequencies."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quire.core.contracts.model import BuildContext
from quire.core.errors import CheckpointError
from quire.core.layers.fields import Fields
from quire.core.layers.norm import RMSNorm
from quire.core.layers.rope_scaling import RopeSpec
from quire.core.layers.rotary import Rotary
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import Unquantized


def context(dtype: torch.dtype = torch.float32, max_model_len: int = 64) -> BuildContext:
    platform = CPU()
    return BuildContext(
        dtype=dtype,
        device=torch.device("cpu"),
        quant=Unquantized(platform),
        platform=platform,
        max_model_len=max_model_len,
    )


@pytest.mark.parametrize("rows", [1, 5, 500])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rms_norm(dtype: torch.dtype, tolerance: float, scale: float, rows: int) -> None:
    norm = RMSNorm("n", 48, 1e-3, context(dtype))
    weight = torch.rand(48).to(dtype) + 0.5
    norm.load("n.weight", weight)
    norm.finish()
    x = ((torch.randn(rows, 3, 48) + 1) * scale).to(dtype)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight.double()
    found = norm(x)
    assert found.dtype == dtype
    assert ((found.double() - exact).norm() / exact.norm()).item() < tolerance


def test_rotation_by_complex_numbers() -> None:
    """The pair (x[i], x[i + d/2]), as a complex number, turns by position * frequency."""
    spec = RopeSpec(head_dim=12, max_positions=64, base=100.0)
    rotary = Rotary(spec, context())
    positions = torch.tensor([0, 1, 5, 63, 5])
    x = torch.randn(5, 3, 12)
    numbers = torch.complex(x[..., :6].double(), x[..., 6:].double())
    frequencies = torch.tensor([100.0 ** (-2 * i / 12) for i in range(6)], dtype=torch.float64)
    angles = positions[:, None, None] * frequencies
    turned = numbers * torch.polar(torch.ones_like(angles), angles)
    rotary.at(positions).apply(x[:, :2], x[:, 2:])
    assert torch.allclose(x.double(), torch.cat((turned.real, turned.imag), -1), atol=1e-5)


SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}
    | {"beta_fast": 24, "beta_slow": 3, "mscale": 1.0, "mscale_all_dim": 0.5},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    | {"truncate": False, "attention_factor": 0.7},
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_frequencies_of_real_sizes(scaling: dict[str, Any], head_dim: int) -> None:
    parameters = scaling | {"rope_theta": 500000.0}
    config = LlamaConfig(
        head_dim=head_dim, max_position_embeddings=40960, rope_parameters=dict(parameters)
    )
    longest = 100_000
    want, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, None, seq_len=longest)
    values = {"max_position_embeddings": 40960, "rope_parameters": parameters}
    spec = RopeSpec.read(Fields(values), head_dim)
    assert torch.allclose(spec.frequencies(longest), want, rtol=1e-5)
    assert math.isclose(spec.attention_factor, factor, rel_tol=1e-6)


def test_both_spellings_of_rope_read_alike() -> None:
    for scaling in SCALINGS:
        newer = {"max_position_embeddings": 128, "rope_parameters": scaling | {"rope_theta": 5e5}}
        older_scaling = {"type" if k == "rope_type" else k: v for k, v in scaling.items()}
        older = {"max_position_embeddings": 128, "rope_theta": 5e5, "rope_scaling": older_scaling}
        assert RopeSpec.read(Fields(newer), 64) == RopeSpec.read(Fields(older), 64)


def test_fields_name_what_is_wrong() -> None:
    values = {
        "i": 1.5,
        "n": "x",
        "f": 1,
        "c": "blue",
        "s": [1],
        "o": [],
        "neg": -2,
        "nan": math.nan,
    }
    fields = Fields({"rope": values}).section("rope")
    calls: list[tuple[str, Any]] = [
        ("i", lambda: fields.integer("i")),
        ("absent", lambda: fields.integer("absent")),
        ("f", lambda: fields.flag("f")),
        ("n", lambda: fields.number("n")),
        ("neg", lambda: fields.number("neg")),
        ("nan", lambda: fields.number("nan")),
        ("c", lambda: fields.choice("c", ("red", "green"))),
        ("s", lambda: fields.strings("s")),
        ("o", lambda: fields.section("o")),
        ("n", lambda: fields.refuse_unless("n", None)),
    ]
    for key, call in calls:
        with pytest.raises(CheckpointError, match=rf"rope\.{key} in config\.json"):
            call()
    assert fields.integer("absent", 3) == 3
    assert fields.number("f") == 1.0
    fields.refuse_unless("absent", 1.0)
