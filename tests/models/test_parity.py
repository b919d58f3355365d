"""Logits of every family against transformers', for made-up models of many shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quire.backends.attention.reference import Reference
from quire.core.errors import CheckpointError
from quire.core.source import open_folder
from tests.models.harness import Harness

PROMPT = 40
BASE: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
LINEAR = {"rope_type": "linear", "factor": 2.5}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
YARN_DETAILED = YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.1}
FACTOR = YARN | {"attention_factor": 1.3, "truncate": False}

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "Llama": [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
        {"head_dim": 20, "rms_norm_eps": 1e-3},
        {"rope": LINEAR, "hidden_act": "gelu"},
        {"rope": DYNAMIC, "max_position_embeddings": 24},
        {"rope": LLAMA3, "rope_theta": 500000.0},
        {"rope": YARN},
        {"rope": YARN_DETAILED, "hidden_act": "gelu_pytorch_tanh"},
        {"rope": FACTOR},
    ],
    "Mistral": [
        {"sliding_window": None},
        {"sliding_window": 5},
        {"sliding_window": 16, "head_dim": 16},
        {"sliding_window": 1, "num_key_value_heads": 4},
        {"sliding_window": 4096, "tie_word_embeddings": True},
        {"sliding_window": 11, "rope": YARN},
    ],
    "Qwen2": [
        {"use_sliding_window": False},
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0},
        {"tie_word_embeddings": True, "rope_theta": 1000000.0},
        {
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {"rope": YARN, "num_key_value_heads": 1},
        {"rope": DYNAMIC, "hidden_act": "gelu"},
    ],
    "Qwen3": [
        {"head_dim": 16},
        {"head_dim": 32, "tie_word_embeddings": True},
        {"head_dim": 128, "attention_bias": True},
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        {"head_dim": 16, "rope": YARN, "rms_norm_eps": 1e-3},
        {"head_dim": 12, "num_key_value_heads": 4, "rope": LINEAR},
    ],
}
CASES = [(family, index) for family, cases in CONFIGS.items() for index in range(len(cases))]


def make(family: str, changes: dict[str, Any], folder: Path) -> transformers.PreTrainedModel:
    """A made-up model of transformers', saved."""
    values = BASE | changes
    rope = values.pop("rope", None)
    if rope is not None:
        values["rope_parameters"] = rope | {"rope_theta": values.pop("rope_theta")}
    config = getattr(transformers, f"{family}Config")(**values)
    torch.manual_seed(len(str(changes)))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(".bias"):
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def as_transformers_4(folder: Path) -> None:
    """Rewrite config.json the way transformers 4 wrote it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if "rope_type" in rope:
        rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope == {"type": "default"} else rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config))


@torch.no_grad()
def expected(model: transformers.PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([prompt])).logits[0]
    return logits


@pytest.mark.parametrize(("family", "index"), CASES)
def test_logits_are_those_of_transformers(family: str, index: int, tmp_path: Path) -> None:
    changes = CONFIGS[family][index]
    model = make(family, changes, tmp_path)
    if index % 2 and "layer_types" not in changes:
        as_transformers_4(tmp_path)
    prompt = torch.randint(0, BASE["vocab_size"], (PROMPT,)).tolist()
    harness = Harness.load(tmp_path, PROMPT)
    want = expected(model, prompt)
    assert want.abs().max() > 0.1
    for chunk in (PROMPT, 7, 1):
        torch.testing.assert_close(harness.logits(prompt, chunk), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_reference_backend_agrees(family: str, tmp_path: Path) -> None:
    model = make(family, CONFIGS[family][1], tmp_path)
    prompt = torch.randint(0, BASE["vocab_size"], (PROMPT,)).tolist()
    harness = Harness.load(tmp_path, PROMPT, backend=Reference, block_size=3)
    torch.testing.assert_close(
        harness.logits(prompt, 9), expected(model, prompt), atol=1e-4, rtol=0
    )


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    model = make("Qwen3", CONFIGS["Qwen3"][0], tmp_path)
    prompt = torch.randint(0, BASE["vocab_size"], (PROMPT,)).tolist()
    want = expected(model, prompt)
    for chunk in (PROMPT, 1):
        harness = Harness.load(tmp_path, PROMPT, dtype=torch.bfloat16)
        error = (harness.logits(prompt, chunk) - want).norm() / want.norm()
        assert error < 0.03


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("Llama", {"hidden_act": "relu"}, "hidden_act"),
        ("Llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("Llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("Llama", {"intermediate_size": 2**40}, "intermediate_size"),
        ("Llama", {"vocab_size": "many"}, "vocab_size"),
        ("Llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type"),
        ("Llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor"),
        ("Llama", {"rope_parameters": []}, "rope_parameters"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("Llama", {"rms_norm_eps": float("nan")}, "config.json"),
        ("Mistral", {"sliding_window": -1}, "sliding_window"),
        ("Qwen2", {"use_sliding_window": True, "layer_types": ["linear"] * 3}, "layer_types"),
        ("Qwen3", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ],
)
def test_unsupported_values_are_refused_by_name(
    family: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    make(family, CONFIGS[family][0] | {"sliding_window": 4} if "Q" in family else {}, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 4} | change))
    with pytest.raises(CheckpointError, match=words):
        Harness.load(tmp_path, PROMPT)


def test_context_length_counts_scaling(tmp_path: Path) -> None:
    for scaling, length in ((LINEAR, 160), (DYNAMIC, 256), (LLAMA3, 64), (YARN, 64)):
        make("Llama", {"rope": scaling}, tmp_path)
        assert open_folder(tmp_path).context_length() == length
        as_transformers_4(tmp_path)
        assert open_folder(tmp_path).context_length() == length
