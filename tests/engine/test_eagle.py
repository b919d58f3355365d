"""EAGLE heads: their drafts against plain arithmetic in float64, and what their files may be."""

import itertools
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire import LLM, SamplingParams
from quire.core.contracts.capabilities import Capabilities
from quire.core.contracts.model import BuildContext
from quire.core.errors import CheckpointError, ConfigError
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.schedule.drafting import Drafting
from quire.core.source import open_folder
from quire.plugins.demo.curriculum import held_out
from quire.plugins.models.llama import Llama
from quire.plugins.platforms.cpu import CPU
from quire.plugins.speculation.eagle_heads import Eagle3Head
from quire.quant.unquantized import Unquantized
from tests.engine.checkpoints import make
from tests.engine.driver import Driver
from tests.engine.heads import Oracle, make_head, record_proposals
from tests.engine.test_parity import GREEDY, MODES, configure, greedy, prompts_of

VARIANTS: list[tuple[int, str, dict[str, Any]]] = [
    (1, "chunks-overlap", {}),
    (1, "whole", {"bias": True, "embedding": True, "head": True, "prefix": "model."}),
    (3, "chunks-overlap", {"draft_vocab_size": 40}),
    (3, "preemption", {"embedding": True, "norm_before_residual": True, "layer": "layers.0"}),
    (3, "overlap", {"head": False, "bias": True}),
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


@pytest.mark.parametrize(("version", "mode", "changes"), VARIANTS)
def test_drafts_are_those_of_plain_arithmetic(
    target, proposals, version, mode, changes, tmp_path
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
        for tokens, drafts in proposals[5 :: len(proposals) // 9]:
            assert drafts == oracle.drafts(tokens, len(drafts))
    finally:
        model.float()


@pytest.mark.parametrize("mode", MODES)
def test_steps_may_be_shown_together(target, proposals, mode: str, tmp_path, monkeypatch) -> None:
    """Drafts now and then are those of a head that has seen every step as it ran."""
    folder, model, prompts, wanted = target
    tensors = make_head(3, tmp_path, model, draft_vocab_size=40)
    turns = itertools.count()
    most = Drafting._choose
    monkeypatch.setattr(
        Drafting,
        "_choose",
        lambda self, seq: most(self, seq) if next(turns) % 11 < 2 else (0, False),
    )
    speculation = {"model": str(tmp_path), "adaptive": False, "num_speculative_tokens": 3}
    driver = Driver(configure(folder, speculation=speculation, **MODES[mode]))
    for _ in range(2):
        assert driver.generate(prompts, GREEDY) == wanted
    oracle = Oracle(3, tensors, model.double())
    try:
        assert len(proposals) > 20
        for tokens, drafts in proposals[3 :: len(proposals) // 9]:
            assert drafts == oracle.drafts(tokens, len(drafts))
    finally:
        model.float()


@pytest.mark.parametrize(
    ("version", "changes", "error", "words"),
    [
        (1, {"vocab_size": 95}, ConfigError, "a vocabulary of 95 and the model one of 96"),
        (1, {"num_hidden_layers": 2}, CheckpointError, "num_hidden_layers .* must be 1"),
        (1, {"add_para_norm": True}, CheckpointError, "add_para_norm .* only as False"),
        (3, {"eagle_aux_hidden_state_layer_ids": [0, 1, 9]}, CheckpointError, "another model"),
        (3, {"eagle_aux_hidden_state_layer_ids": None}, CheckpointError, "another model"),
        (3, {"eagle_aux_hidden_state_layer_ids": [0, 1]}, CheckpointError, "three layers"),
        (3, {"intermediate_size": 25}, CheckpointError, "config.json asks for"),
        (3, {"draft_vocab_size": 40, "head": False}, CheckpointError, "no lm_head.weight"),
    ],
)
def test_what_a_head_cannot_be(target, version, changes, error, words, tmp_path) -> None:
    folder, model, *_ = target
    make_head(version, tmp_path, model, **changes)
    with pytest.raises(error, match=words):
        Driver(configure(folder, speculation={"model": str(tmp_path)}))


def test_broken_tables_of_tokens_are_refused(target, tmp_path) -> None:
    folder, model, *_ = target
    make_head(3, tmp_path, model, draft_vocab_size=40)
    tensors = load_file(tmp_path / "model.safetensors")
    for broken, words in (
        (tensors["d2t"] + 90, "outside the vocabulary"),
        (tensors["d2t"][:39], "must be 40 integers"),
        (None, "no tensor d2t"),
    ):
        kept = {name: tensor for name, tensor in tensors.items() if name != "d2t"}
        changed = kept if broken is None else kept | {"d2t": broken.contiguous()}
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=words):
            Driver(configure(folder, speculation={"model": str(tmp_path)}))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"eagle_aux_hidden_state_layer_ids": [2, 5, 7]}, (2, 5, 7)),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}, (2, 4, 5)),
        ({}, (2, 4, 5)),
    ],
)
def test_layers_are_named_as_elsewhere(changes, found, target, tmp_path) -> None:
    """In the section that SpecForge writes, layers are those whose outputs are read."""
    _, model, *_ = target
    make_head(3, tmp_path, model, **{"eagle_aux_hidden_state_layer_ids": None} | changes)
    context = BuildContext(
        dtype=torch.float32,
        device=torch.device("cpu"),
        quant=Unquantized(CPU()),
        platform=CPU(),
        max_model_len=64,
    )
    head = Eagle3Head(open_folder(tmp_path), context, None, model.config.hidden_size)
    assert head.hidden_layers(8) == found


def test_the_layer_may_stand_in_a_section(target, proposals, tmp_path) -> None:
    """As the speculators library writes configs."""
    folder, model, prompts, wanted = target
    tensors = make_head(3, tmp_path, model, layer="layers.0", draft_vocab_size=40)
    path = tmp_path / "config.json"
    layer = json.loads(path.read_text())
    top = {"architectures": ["Eagle3Speculator"], "draft_vocab_size": 40}
    top["eagle_aux_hidden_state_layer_ids"] = layer.pop("eagle_aux_hidden_state_layer_ids")
    del layer["architectures"], layer["draft_vocab_size"]
    path.write_text(json.dumps(top | {"transformer_layer_config": layer}))
    driver = Driver(configure(folder, speculation={"model": str(tmp_path), "adaptive": False}))
    assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    oracle = Oracle(3, tensors, model.double())
    for tokens, drafts in proposals[::10]:
        assert drafts == oracle.drafts(tokens, len(drafts))
    model.float()


def test_a_model_that_shows_nothing_is_refused(target, tmp_path, monkeypatch) -> None:
    folder, model, *_ = target
    make_head(1, tmp_path, model)
    monkeypatch.setattr(Llama, "capabilities", Capabilities())
    with pytest.raises(ConfigError, match="does not show them"):
        Driver(configure(folder, speculation={"model": str(tmp_path)}))


def test_the_embedded_head_is_often_right() -> None:
    """Far below what the model card says, and far above chance."""
    messages = [example.messages for example in held_out(1, seed=3)]
    params = SamplingParams(temperature=0, max_tokens=24)
    llm = LLM("demo", speculative_config={"model": "demo-eagle", "adaptive": False})
    llm.chat(messages, params, use_tqdm=False)
    stats = llm.engine.stats()
    assert stats.accepted_tokens > 0.4 * stats.draft_tokens
    llm.shutdown()
