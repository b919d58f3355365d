"""The toy quantization: the contract's suite, and the engine on a checkpoint of it."""

import json
import subprocess
import sys

import pytest
import torch
from quire_example_plugin import tiny
from quire_example_plugin.ternary import Ternary, quantize
from safetensors import safe_open
from safetensors.torch import save_file

from quire import LLM, SamplingParams
from quire.core.config import Config, PluginsConfig
from quire.core.contracts.quant import LinearSpec
from quire.core.errors import CheckpointError
from quire.core.registry import Registry
from quire.testing import QuantCase, check_quant, check_rounding

DESCRIBED = {"quant_method": "ternary"}


def cases():
    platform = Registry().get("platform", "cpu")()
    for widths, dtype, tolerance in (
        ((24,), "float32", 1e-3),
        ((24, 8, 8), "float32", 1e-3),
        ((24, 8), "bfloat16", 2e-2),
    ):
        names = tuple(f"a.{index}" for index in range(len(widths)))
        spec = LinearSpec(shards=names, out_features=widths, in_features=40, dtype=dtype)
        stored, weights = {}, []
        for name, width in zip(names, widths, strict=True):
            values, scale = quantize(torch.randn(width, 40))
            stored |= {f"{name}.weight": values, f"{name}.scale": scale}
            weights.append(values.double() * scale.double()[:, None])
        method = Ternary.from_checkpoint(DESCRIBED, platform)
        yield QuantCase(method, spec, stored, torch.cat(weights), None, tolerance)


def test_conformance():
    check_quant(cases)


def test_what_is_made_is_what_loads():
    check_rounding(Ternary, Registry().get("platform", "cpu")(), error=0.6)


def test_a_bias_is_refused_by_name():
    (method,) = {case.method for case in list(cases())[:1]}
    spec = LinearSpec(shards=("a.0",), out_features=(8,), in_features=40, bias=True)
    with pytest.raises(CheckpointError, match=r"a\.0 has a bias"):
        method.linear(spec, torch.device("cpu"))


def test_the_engine_draws_what_the_weights_stand_for(tmp_path):
    weights = tiny.write(tmp_path / "plain")
    stored, plain = {}, {}
    for name, tensor in weights.items():
        if not name.endswith("_proj.weight"):
            stored[name] = plain[name] = tensor
            continue
        values, scale = quantize(tensor)
        stored |= {name: values, name.replace(".weight", ".scale"): scale}
        plain[name] = values * scale[:, None]
    save_file(plain, tmp_path / "plain" / "model.safetensors")
    tiny.write(tmp_path / "ternary")
    save_file(stored, tmp_path / "ternary" / "model.safetensors")
    path = tmp_path / "ternary" / "config.json"
    path.write_text(json.dumps(tiny.CONFIG | {"quantization_config": DESCRIBED}))
    config = Config(plugins=PluginsConfig(load=("example",)))
    drawn = []
    for folder in ("plain", "ternary"):
        llm = LLM(tmp_path / folder, config=config, dtype="float32")
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
        (output,) = llm.generate("ternary", params, use_tqdm=False)
        drawn.append(output.outputs[0].token_ids)
    assert drawn[0] == drawn[1]


def test_quire_quantize_makes_what_the_engine_loads(tmp_path):
    """Each layer rounds what the ones before it, rounded, lead to; its weights stay the model's."""
    out = tmp_path / "ternary"
    command = [sys.executable, "-m", "quire", "quantize", "demo", "--plugin", "example"]
    command += ["--method", "ternary", "--out", str(out), "--samples", "4", "--length", "64"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["quantization_config"] == DESCRIBED
    name = "model.layers.1.mlp.down_proj"
    with safe_open(next(out.glob("*00002-of-*.safetensors")), "pt") as file:
        values, scale = file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.scale")
    assert set(values.unique().tolist()) == {-1, 0, 1}
    assert scale.dtype is torch.float32
    config = Config(plugins=PluginsConfig(load=("example",)))
    llm = LLM(out, config=config)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    (output,) = llm.generate("ternary", params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 4
    llm.shutdown()
