"""Every method with everything that a request or an engine may ask for: plain decoding's output."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.core.errors import ConfigError
from quire.core.output import RequestOutput
from tests.engine.checkpoints import make
from tests.engine.driver import Driver
from tests.engine.heads import make_head
from tests.engine.speculation_matrix import (
    DOCS,
    ENGINES,
    METHODS,
    REQUESTS,
    configure,
    refusal,
    table,
)
from tests.engine.test_parity import LENGTHS, prompts_of

CODE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul("
PROMPTS = [CODE, CODE[:32]]
GREEDY = SamplingParams(temperature=0, max_tokens=20)
DEMO = Path(__file__).parents[2] / "plugins/demo/model/config.json"


# Requests, on the embedded model


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Engines by method, each made once; plain decoding by the name of none."""
    folder = tmp_path_factory.mktemp("head")
    config = SimpleNamespace(**json.loads(DEMO.read_text()))
    make_head(1, folder, SimpleNamespace(config=config))
    sections = METHODS | {"eagle": {"method": "eagle", "model": str(folder)}, "": {}}
    return functools.cache(lambda method: LLM.from_config(configure("demo", sections[method], {})))


@pytest.fixture(scope="module")
def plainly(engines):
    """Plain decoding's answer to a feature."""
    return functools.cache(lambda feature: ask(engines(""), feature))


def ask(llm: LLM, feature: str) -> list[Any]:
    asked = {"temperature": 0, "max_tokens": 12, "ignore_eos": True} | REQUESTS[feature]
    outputs = llm.generate(PROMPTS, SamplingParams(**asked), use_tqdm=False)
    return [essence(output) for output in outputs]


def essence(output: RequestOutput) -> list[Any]:
    parts = [
        (part.token_ids, part.text, part.finish_reason, part.stop_reason, part.logprobs)
        for part in output.outputs
    ]
    return [parts, output.prompt_logprobs]


@pytest.mark.parametrize("feature", REQUESTS)
@pytest.mark.parametrize("method", METHODS)
def test_requests(engines, plainly, method: str, feature: str) -> None:
    assert refusal(method, feature) is None
    llm = engines(method)
    assert ask(llm, feature) == plainly(feature)
    llm.engine.scheduler.check()
    stats = llm.engine.stats()
    assert stats.draft_tokens > 0
    # A head of made-up weights is hardly ever right.
    assert stats.accepted_tokens > 0 or method == "eagle"


# Engines, on a made-up model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model's folder, and for each method the section that drafts for it."""
    folder = tmp_path_factory.mktemp("model")
    model = make("Llama", 0, folder)
    heads = {version: tmp_path_factory.mktemp("head") for version in (1, 3)}
    for version, head in heads.items():
        make_head(version, head, model)
    return folder, METHODS | {
        "draft_model": {"model": str(folder)},
        "eagle": {"model": str(heads[1])},
        "eagle3": {"model": str(heads[3])},
    }


@pytest.fixture(scope="module")
def decoded(small):
    """What plain decoding gives, with a quantized model and without."""

    def generate(quantization: str) -> list[list[int]]:
        changes = {"model": {"quantization": quantization, "max_model_len": 128}}
        return Driver(configure(small[0], {}, changes)).generate(prompts_of(len(LENGTHS)), GREEDY)

    return functools.cache(generate)


@pytest.mark.parametrize("feature", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_engines(small, decoded, method: str, feature: str) -> None:
    folder, sections = small
    config = configure(folder, sections[method], ENGINES[feature])
    reason = refusal(method, feature)
    if reason is not None:
        with pytest.raises(ConfigError) as error:
            Driver(config)
        assert str(error.value) == reason
        return
    driver = Driver(config)
    wanted = decoded("int8" if feature == "quantized target" else "auto")
    for _ in range(1 + (feature == "prefix caching")):
        assert driver.generate(prompts_of(len(LENGTHS)), GREEDY) == wanted
    stats = driver.engine.stats()
    assert stats.draft_tokens > 0
    # A model that drafts for itself is right; rounded, it is still now and then.
    assert stats.accepted_tokens > 0 or method != "draft_model"
    assert (stats.prefix_hits > 0) >= (feature == "prefix caching")
    assert (stats.preemptions > 0) == (feature == "preemption")


def test_the_page_has_the_table_of_these_tests() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert table() in text, "run python -m tests.engine.speculation_matrix"
