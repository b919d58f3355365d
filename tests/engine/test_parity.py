"""Every family against transformers: the same log-probabilities, the same greedy tokens."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from quire.core.config import Config
from quire.core.request import SamplingParams
from quire.core.step import TokenLogprobs
from tests.engine.checkpoints import CASES, make
from tests.engine.driver import Driver, make_config

LENGTHS = (1, 5, 23, 40)
GREEDY = SamplingParams(temperature=0, max_tokens=32)
BACKENDS = ("reference", "cpu")
# Overlap is the engine's, above any backend.
BACKENDS_AND_OVERLAP = (("reference", False), ("cpu", True))


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


@pytest.mark.parametrize(("backend", "overlap"), BACKENDS_AND_OVERLAP)
def test_prefix_hits(case, backend: str, overlap: bool) -> None:
    folder, _, prompts, wanted = case
    schedule = {"overlap": overlap}
    driver = Driver(configure(folder, attention={"backend": backend}, schedule=schedule))
    alone = [driver.generate([prompt], GREEDY)[0] for prompt in prompts]
    again = [driver.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert alone == again == wanted
    assert driver.engine.stats().prefix_hits > 0


def serve_mixed(driver: Driver, prompts: list[list[int]], params: SamplingParams) -> None:
    """The prompts one after another, longest first, so that chunks and decodes share steps."""
    waiting = list(reversed(list(enumerate(prompts))))

    def arrive() -> None:
        if waiting and driver.engine.stats().waiting == 0:
            index, prompt = waiting.pop(0)
            driver.add(str(index), prompt, params)

    arrive()
    driver.drain(after_step=arrive)


@pytest.mark.parametrize(("backend", "overlap"), BACKENDS_AND_OVERLAP)
def test_prompts_and_decodes_in_one_batch(case, backend: str, overlap: bool) -> None:
    folder, _, prompts, wanted = case
    schedule = {"max_num_batched_tokens": 9, "overlap": overlap}
    driver = Driver(configure(folder, attention={"backend": backend}, schedule=schedule))
    serve_mixed(driver, prompts, GREEDY)
    assert [driver.tokens[str(index)] for index in range(len(prompts))] == wanted


@pytest.fixture(scope="module")
def exact(case) -> list[torch.Tensor]:
    """Log-probabilities after each token of the prompts and of what follows, by transformers."""
    _, model, prompts, wanted = case
    with torch.no_grad():
        return [
            model(torch.tensor([prompt + tokens])).logits[0].double().log_softmax(-1)
            for prompt, tokens in zip(prompts, wanted, strict=True)
        ]


@pytest.mark.parametrize("mode", [*MODES, "mixed", "mixed-overlap"])
def test_log_probabilities(case, exact: list[torch.Tensor], mode: str) -> None:
    folder, _, prompts, wanted = case
    params = msgspec.structs.replace(GREEDY, prompt_logprobs=3, logprobs=3)
    if mode.startswith("mixed"):
        schedule = {"max_num_batched_tokens": 9, "overlap": mode.endswith("overlap")}
        driver = Driver(configure(folder, schedule=schedule))
        serve_mixed(driver, prompts, params)
    else:
        driver = Driver(configure(folder, **MODES[mode]))
        driver.generate(prompts, params)
    assert (driver.engine.stats().preemptions > 0) == mode.startswith("preemption")
    for index, (prompt, tokens) in enumerate(zip(prompts, wanted, strict=True)):
        entries = driver.prompt_logprobs[str(index)] + driver.logprobs[str(index)]
        check(entries, [*prompt[1:], *tokens], exact[index])


def test_log_probabilities_after_a_prefix_hit(case, exact: list[torch.Tensor]) -> None:
    folder, _, prompts, wanted = case
    driver = Driver(configure(folder))
    params = msgspec.structs.replace(GREEDY, logprobs=3)
    driver.generate(prompts, params)
    driver.logprobs.clear()
    driver.generate(prompts, params)
    assert driver.engine.stats().prefix_hits > 0
    for index, (prompt, tokens) in enumerate(zip(prompts, wanted, strict=True)):
        check(driver.logprobs[str(index)], tokens, exact[index][len(prompt) - 1 :])


def check(entries: list[TokenLogprobs], targets: list[int], rows: torch.Tensor) -> None:
    """Each entry is of its target, and as exact as float32 allows."""
    assert len(entries) == len(targets)
    for row, token, entry in zip(rows, targets, entries, strict=False):
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(3)
        assert entry.top_logprobs == pytest.approx(best.values.tolist(), abs=1e-4)
        rank = 1 + int((row > row[token]).sum())
        # Where two are as good as equal, either may be ahead.
        assert entry.rank == rank or bool(((row - row[token]).abs() < 1e-4).sum() > 1)


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
