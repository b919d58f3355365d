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

CODE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul("
PROMPTS = [CODE, CODE[:32], "import os\nimport sys\n\n\ndef main():\n    import os\n"]
DEMO = Path(__file__).parents[2] / "plugins/demo/model/config.json"


@pytest.fixture(scope="module")
def sections(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Methods with the checkpoints that they need."""
    folder = tmp_path_factory.mktemp("head")
    config = SimpleNamespace(**json.loads(DEMO.read_text()))
    make_head(1, folder, SimpleNamespace(config=config))
    return METHODS | {"eagle": {"method": "eagle", "model": str(folder)}}


@functools.cache
def engine(speculation: tuple[tuple[str, str], ...], changes: tuple[tuple[str, Any], ...]) -> LLM:
    return LLM.from_config(configure(dict(speculation), dict(changes)))


def run(llm: LLM, **asked: Any) -> list[Any]:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 20, "ignore_eos": True} | asked)
    return [essence(output) for output in llm.generate(PROMPTS, params, use_tqdm=False)]


def essence(output: RequestOutput) -> list[Any]:
    parts = [
        (p.token_ids, p.text, p.finish_reason, p.stop_reason, p.logprobs) for p in output.outputs
    ]
    return [parts, output.prompt_logprobs]


@functools.cache
def plainly(feature: str) -> list[Any]:
    changes = ENGINES["quantized target"] if feature == "quantized target" else {}
    return run(engine((), tuple(changes.items())), **REQUESTS.get(feature, {}))


def check(method: str, llm: LLM) -> None:
    """Drafts there were; from all but a head of made-up weights some were accepted."""
    llm.engine.scheduler.check()
    stats = llm.engine.stats()
    assert stats.draft_tokens > 0
    assert stats.accepted_tokens > 0 or method == "eagle"


@pytest.mark.parametrize("feature", REQUESTS)
@pytest.mark.parametrize("method", METHODS)
def test_requests(sections, method: str, feature: str) -> None:
    assert refusal(method, feature) is None
    llm = engine(tuple(sections[method].items()), ())
    assert run(llm, **REQUESTS[feature]) == plainly(feature)
    check(method, llm)


@pytest.mark.parametrize("feature", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_engines(sections, method: str, feature: str) -> None:
    reason = refusal(method, feature)
    if reason is not None:
        with pytest.raises(ConfigError) as error:
            LLM.from_config(configure(sections[method], ENGINES[feature]))
        assert str(error.value) == reason
        return
    llm = LLM.from_config(configure(sections[method], ENGINES[feature]))
    for _ in range(1 + (feature == "prefix caching")):
        assert run(llm) == plainly(feature)
    check(method, llm)
    stats = llm.engine.stats()
    assert (stats.prefix_hits > 0) >= (feature == "prefix caching")
    assert (stats.preemptions > 0) == (feature == "preemption")
    llm.shutdown()


def test_the_page_has_the_table_of_these_tests() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert table() in text, "run python -m tests.engine.speculation_matrix"
