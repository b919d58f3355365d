"""Checkpoints that the real tools wrote: the engine against transformers in float64."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quire.core.request import SamplingParams
from tests.engine.driver import Driver, make_config
from tests.quant.oracle import Oracle

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
GREEDY = SamplingParams(temperature=0, max_tokens=24)
LENGTHS = (1, 7, 33, 80)
TOLERANCE = {"float32": 2e-3, "bfloat16": 4e-2}
"""Of log-probabilities, by norm."""
NEAR, NEAR_ROUNDED = 1e-3, 0.05
"""Logits that close are equal. Where activations are rounded to eight bits, those at the edge
between two values may fall to either side."""


def prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(256) for _ in range(length)] for length in LENGTHS]


def reference(folder: Path) -> transformers.PreTrainedModel:
    """transformers' model with the weights that the checkpoint stands for, in float64."""
    oracle = Oracle.read(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    # transformers 5 does not read where transformers 4 wrote it.
    config.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})
    biased = any(name.endswith("proj.bias") for name in oracle.tensors)
    config |= {"dtype": "float64", "attention_bias": biased, "mlp_bias": biased}
    config["attn_implementation"] = "eager"
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).double().eval()
    tensors = {k: v for k, v in oracle.tensors.items() if not k.endswith("_scale")}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    model.load_state_dict(tensors)
    for name, rounded in oracle.rounding.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, by=rounded: (by(args[0]),)
        )
    return model


@torch.no_grad()
def shortfall(model: transformers.PreTrainedModel, prompt: list[int], tokens: list[int]) -> float:
    """By how much the model likes another token best, where it does so most: 0 when greedy."""
    logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])
    return float((logits.amax(1, keepdim=True) - chosen).max())


def configure(name: str, dtype: str = "float32", **sections: Any) -> Any:
    model = {"name": str(FIXTURES / name), "dtype": dtype, "max_model_len": 128}
    return make_config(FIXTURES / name, model=model, **sections)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A name, transformers' model, and the engine's greedy tokens."""
    wanted = Driver(configure(request.param)).generate(prompts(), GREEDY)
    return request.param, reference(FIXTURES / request.param), wanted


def test_greedy_tokens(case) -> None:
    name, model, wanted = case
    near = NEAR_ROUNDED if Oracle.read(FIXTURES / name).rounding else NEAR
    for prompt, tokens in zip(prompts(), wanted, strict=True):
        assert shortfall(model, prompt, tokens) <= near


MODES = {
    "overlap": {"schedule": {"overlap": True}},
    "chunks": {"schedule": {"max_num_batched_tokens": 9}},
    "preemption": {"cache": {"num_blocks": 46, "prefix_caching": False}},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_same_tokens_in_other_steps(case, mode: str) -> None:
    name, _, wanted = case
    driver = Driver(configure(name, **MODES[mode]))
    assert driver.generate(prompts(), GREEDY) == wanted
    assert (driver.engine.stats().preemptions > 0) == (mode == "preemption")


def test_the_same_tokens_out_of_the_prefix_cache(case) -> None:
    name, _, wanted = case
    driver = Driver(configure(name))
    for _ in range(2):
        assert [driver.generate([prompt], GREEDY)[0] for prompt in prompts()] == wanted
    assert driver.engine.stats().prefix_hits > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.no_grad()
def test_log_probabilities(case, dtype: str) -> None:
    name, model, _ = case
    driver = Driver(configure(name, dtype))
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    driver.generate(prompts(), asked)
    for index, prompt in enumerate(prompts()):
        if len(prompt) == 1:
            continue
        exact = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        wanted = exact[:-1].gather(1, torch.tensor(prompt[1:])[:, None]).flatten()
        entries = driver.prompt_logprobs[str(index)]
        found = torch.tensor([entry.logprob for entry in entries], dtype=torch.float64)
        assert (found - wanted).norm() <= TOLERANCE[dtype] * wanted.norm()
