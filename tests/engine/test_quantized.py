"""Every family with quantized layers: the engine against transformers in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from quire.core.request import SamplingParams
from tests.engine.checkpoints import VARIANTS, make
from tests.engine.driver import Driver
from tests.engine.test_parity import MODES, configure, prompts_of
from tests.quant.layers import MAKERS, Maker
from tests.quant.oracle import float8_rows, int8_rows

FORMATS = (
    "awq-gemm--1",
    "awq-gemv--1-symmetric",
    "gptq-4--1-asymmetric-ordered",
    "gptq-8--1",
    "packed-4--1-asymmetric",
    "fp8-block",
    "float-channel",
    "int-channel",
)
CASES = [("Llama", name) for name in FORMATS] + [
    (family, name) for family in VARIANTS for name in FORMATS[::6] if family != "Llama"
]
ROUNDING = {"fp8-block": float8_rows(128), "float-channel": float8_rows(), "int-channel": int8_rows}
"""Of activations."""
NEAR, NEAR_ROUNDED = 1e-2, 0.1
"""Logits that close are equal; see tests/quant/test_fixtures.py."""
GREEDY = SamplingParams(temperature=0, max_tokens=32)


def quantize(folder: Path, model: transformers.PreTrainedModel, maker: Maker) -> None:
    """Replace a checkpoint's linear layers by stored ones, and the model's by what those mean."""
    rng = np.random.default_rng(0)
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    model.double()
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        rows, columns = tensors.pop(name).shape
        layer = maker.make(rng, rows, columns, np.arange(columns))
        tensors |= {f"{module}.{key}": tensor for key, tensor in layer.tensors.items()}
        linear = model.get_submodule(module)
        linear.weight.data.copy_(layer.weight)
        if maker.name in ROUNDING:
            linear.register_forward_pre_hook(
                lambda module, args, by=ROUNDING[maker.name]: (by(args[0]),)
            )
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": maker.config}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("family", "name"), CASES)
@torch.no_grad()
def test_greedy_tokens(family: str, name: str, tmp_path: Path) -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == name)
    model = make(family, 0, tmp_path)
    quantize(tmp_path, model, maker)
    near = NEAR_ROUNDED if name in ROUNDING else NEAR
    prompts = prompts_of(4)
    wanted = Driver(configure(tmp_path)).generate(prompts, GREEDY)
    for prompt, tokens in zip(prompts, wanted, strict=True):
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])
        assert float((logits.amax(1, keepdim=True) - chosen).max()) <= near
    for sections in (MODES["chunks-overlap"], MODES["preemption-overlap"]):
        driver = Driver(configure(tmp_path, **sections))
        assert driver.generate(prompts, GREEDY) == wanted
        assert driver.generate(prompts, GREEDY) == wanted
        stats = driver.engine.stats()
        assert stats.prefix_hits > 0
        assert (stats.preemptions > 0) == ("cache" in sections)
