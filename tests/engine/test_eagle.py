"""EAGLE heads: their drafts against plain arithmetic in float64, and what their files may be."""

from typing import Any

import pytest

from quire.core.errors import CheckpointError, ConfigError
from quire.core.registry import Registry
from quire.core.resolve import resolve
from tests.engine.checkpoints import make
from tests.engine.driver import Driver
from tests.engine.heads import Oracle, make_head, record_proposals
from tests.engine.test_parity import GREEDY, MODES, configure, greedy, prompts_of

VARIANTS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (1, {"bias": True, "embedding": True, "head": True, "prefix": "model."}),
    (3, {"draft_vocab_size": 40}),
    (3, {"embedding": True, "norm_before_residual": True, "layer": "layers.0"}),
    (3, {"head": False, "bias": True}),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    model = make("Llama", 0, folder)
    prompts = prompts_of(4)
    return folder, model, prompts, [greedy(model, prompt, 32) for prompt in prompts]


@pytest.fixture
def proposals(monkeypatch) -> list[tuple[list[int], list[int]]]:
    return record_proposals(monkeypatch)


@pytest.mark.parametrize(("version", "changes"), VARIANTS)
@pytest.mark.parametrize("mode", ["whole", "chunks-overlap"])
def test_drafts_are_those_of_plain_arithmetic(
    target, proposals, version, changes, mode, tmp_path
) -> None:
    folder, model, prompts, wanted = target
    tensors = make_head(version, tmp_path, model, **changes)
    speculation = {"model": str(tmp_path), "adaptive": False, "num_speculative_tokens": 3}
    config = configure(folder, speculation=speculation, **MODES[mode])
    chosen = resolve(config, Registry())
    assert chosen.config.speculation.method == {1: "eagle", 3: "eagle3"}[version]
    driver = Driver(config)
    for _ in range(2):  # The second time from cached prefixes.
        assert driver.generate(prompts, GREEDY) == wanted
    first = "norm_before_residual" in changes
    oracle = Oracle(version, tensors, model.double(), norm_first=first)
    try:
        assert len(proposals) > 100
        for tokens, drafts in proposals[5 :: len(proposals) // 12]:
            assert drafts == oracle.drafts(tokens, len(drafts))
    finally:
        model.float()
