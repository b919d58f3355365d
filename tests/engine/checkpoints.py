"""Tiny made-up checkpoints of every family, written by transformers."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": "eager",
}


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


LLAMA3 = rope(
    "llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
TIED = {"tie_word_embeddings": True}

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Llama": [
        {},
        {**TIED, "num_key_value_heads": 4},
        {"head_dim": 16, "num_key_value_heads": 1},
        {"attention_bias": True, "mlp_bias": True},
        LLAMA3,
        {**rope("linear", factor=2.0), "rms_norm_eps": 1e-3},
        rope("dynamic", factor=2.0),
        YARN,
    ],
    "Mistral": [
        {"sliding_window": None},
        {"sliding_window": 8},
        {"sliding_window": 20, "head_dim": 16},
        {"sliding_window": 5, "num_key_value_heads": 1},
        {"sliding_window": 64, "num_key_value_heads": 4},
        {**TIED, "sliding_window": 8},
    ],
    "Qwen2": [
        {},
        TIED,
        {"num_key_value_heads": 1},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        YARN,
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-5},
    ],
    "Qwen3": [
        {"head_dim": 8},
        {**TIED, "head_dim": 16},
        {"head_dim": 8, "num_key_value_heads": 1},
        {"head_dim": 8, "attention_bias": True},
        {"head_dim": 8, **YARN},
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
    ],
}
CASES = [(family, index) for family, found in VARIANTS.items() for index in range(len(found))]


def make(family: str, index: int, folder: Path) -> transformers.PreTrainedModel:
    """Write the variant's checkpoint into folder and return transformers' model in float32."""
    config = getattr(transformers, f"{family}Config")(**{**BASE, **VARIANTS[family][index]})
    torch.manual_seed(index)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases start at zero and norms at one, which would hide that they are not used.
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, max_shard_size="20KB" if index % 2 else "5GB")
    saved = json.loads((folder / "config.json").read_text())
    saved["architectures"] = [f"{family}ForCausalLM"]
    (folder / "config.json").write_text(json.dumps(saved))
    return model
