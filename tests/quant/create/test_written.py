"""What is written, byte for byte: what the real tools' own checkpoints hold."""

from pathlib import Path

import msgspec
import pytest
import torch

from quire.core.registry import Registry
from quire.core.weights.stream import stream_tensors
from quire.plugins.platforms.cpu import CPU
from quire.quant.create import formats
from quire.quant.create.recipe import Recipe
from quire.quant.weights import GroupedWeight

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLAIN = Recipe(
    method="gptq", bits=4, group_size=64, symmetric=True, desc_act=False, damping=0.01,
    blocks=False, calibrated=True, samples=1, length=64,
)  # fmt: skip
TOOLS = {
    "awq_gemm": {"method": "awq"},
    "agptq_sym": {},
    "agptq_desc": {"desc_act": True},
    # The second version of the format, which we write where there are zero points.
    "gm_8b": {"bits": 8, "group_size": 128, "desc_act": True, "symmetric": False},
    "ct_w8a8": {"method": "int8"},
    "hf_fp8": {"method": "fp8", "blocks": True},
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tools_layers_are_written_as_they_were(name):
    stored = {key: tensor.clone() for key, tensor in stream_tensors(FIXTURES / name)}
    config = msgspec.json.decode((FIXTURES / name / "config.json").read_bytes())
    described = config["quantization_config"]
    method = Registry().get("quant", described["quant_method"]).from_checkpoint(described, CPU())
    recipe = msgspec.structs.replace(PLAIN, **TOOLS[name])
    modules = {key.rpartition(".")[0] for key in stored if "_proj." in key}
    assert len(modules) >= 7
    for module in sorted(modules):
        own = {k.rpartition(".")[2]: t for k, t in stored.items() if k.startswith(f"{module}.")}
        value = method.format(module).read(module, own)
        written = formats.tensors(module, value, recipe, torch.bfloat16)
        # AutoGPTQ adds biases of zeros.
        assert written.keys() == {f"{module}.{kind}" for kind in own if kind != "bias"}
        for key, tensor in written.items():
            assert tensor.dtype == stored[key].dtype, key
            assert torch.equal(_bytes(tensor), _bytes(stored[key])), key


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def test_zero_points_of_the_second_version_are_stored_as_they_are():
    value = GroupedWeight(
        codes=torch.zeros(8, 64, dtype=torch.uint8),
        scales=torch.ones(8, 1, dtype=torch.float16),
        zeros=torch.arange(8, dtype=torch.uint8)[:, None],
        bits=4,
        group_size=64,
    )
    recipe = msgspec.structs.replace(PLAIN, symmetric=False)
    assert formats.describe(recipe)["checkpoint_format"] == "gptq_v2"
    stored = formats.tensors("a", value, recipe, torch.bfloat16)["a.qzeros"]
    assert int(stored) == 0x76543210


@pytest.mark.parametrize("name", ["awq_gemm", "agptq_sym", "hf_fp8", "ct_w8a8"])
def test_descriptions_say_what_the_tools_say(name):
    """Every key that we write and a tool writes too has the tool's value."""
    config = msgspec.json.decode((FIXTURES / name / "config.json").read_bytes())
    theirs = config["quantization_config"]
    ours = formats.describe(msgspec.structs.replace(PLAIN, **TOOLS[name]))
    ignored = {"meta", "damp_percent", "config_groups"}
    common = (ours.keys() & theirs.keys()) - ignored
    assert {key: ours[key] for key in common} == {key: theirs[key] for key in common}
    if "config_groups" in ours:
        ours, theirs = (x["config_groups"]["group_0"] for x in (ours, theirs))
        for part in ("weights", "input_activations"):
            assert ours[part].items() <= theirs[part].items()
        assert ours["targets"] == theirs["targets"] and ours["format"] == theirs["format"]
