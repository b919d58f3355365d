"""Every family against transformers: the same log-probabilities, the same greedy tokens."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quire.core.config import Config
from quire.core.request import SamplingParams
from tests.engine.checkpoints import CASES, make
from tests.engine.driver import Driver, make_config

LENGTHS = (1, 5, 23, 40)
GREEDY = SamplingParams(temperature=0, max_tokens=32)
BACKENDS = ("reference", "cpu")


def configure(folder: Path, **sections: Any) -> Config:
    # Within the original context, where dynamic scaling is plain rotation at every length.
    model = {"name": str(folder), "dtype": "float32", "max_model_len": 128}
    return make_config(folder, model=model, **sections)


def prompts_of(count: int) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(96) for _ in range(length)] for length in LENGTHS[:count]]


@torch.no_grad()
def greedy(model: transformers.PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """Plain greedy decoding, the whole sequence each time: no cache to be wrong."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make(*request.param, folder)
    prompts = prompts_of(len(LENGTHS))
    return folder, model, prompts, [greedy(model, prompt, 32) for prompt in prompts]


MODES = {
    "whole": {},
    "overlap": {"schedule": {"overlap": True}},
    "chunks": {"schedule": {"max_num_batched_tokens": 7}},
    "chunks-overlap": {"schedule": {"max_num_batched_tokens": 7, "overlap": True}},
    "preemption": {"cache": {"num_blocks": 36, "prefix_caching": False}},
    "preemption-overlap": {"cache": {"num_blocks": 36}, "schedule": {"overlap": True}},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_greedy_tokens(case, mode: str, backend: str) -> None:
    folder, _, prompts, wanted = case
    driver = Driver(configure(folder, attention={"backend": backend}, **MODES[mode]))
    assert driver.generate(prompts, GREEDY) == wanted
    assert (driver.engine.stats().preemptions > 0) == mode.startswith("preemption")


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefix_hits(case, backend: str) -> None:
    folder, _, prompts, wanted = case
    driver = Driver(configure(folder, attention={"backend": backend}))
    alone = [driver.generate([prompt], GREEDY)[0] for prompt in prompts]
    again = [driver.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert alone == again == wanted
    assert driver.engine.stats().prefix_hits > 0


@pytest.mark.parametrize("chunk", [256, 7])
def test_log_probabilities(case, chunk: int) -> None:
    folder, model, prompts, _ = case
    driver = Driver(configure(folder, schedule={"max_num_batched_tokens": chunk}))
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3, logprobs=3)
    driver.generate(prompts, params)
    for index, prompt in enumerate(prompts):
        with torch.no_grad():
            exact = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
        entries = driver.prompt_logprobs[str(index)] + driver.logprobs[str(index)][:1]
        targets = [*prompt[1:], entries[-1].token_id]
        assert len(entries) == len(prompt)
        for row, token, entry in zip(exact, targets, entries, strict=True):
            assert entry.token_id == token
            assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert entry.rank == 1 + int((row > row[token]).sum())
            best = row.topk(3)
            assert entry.top_logprobs == pytest.approx(best.values.tolist(), abs=1e-4)


def test_configuration_as_transformers_4_wrote_it(tmp_path: Path) -> None:
    model = make("Llama", 4, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters
    config["torch_dtype"] = config.pop("dtype", "float32")
    path.write_text(json.dumps(config))
    prompts = prompts_of(3)
    driver = Driver(configure(tmp_path))
    assert driver.generate(prompts, GREEDY) == [greedy(model, p, 32) for p in prompts]
