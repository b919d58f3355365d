"""Tiny made-up models of every family whose sizes can be quantized, written by transformers."""

from pathlib import Path

import torch
import transformers

from quire.core.layers.decoder import Decoder
from quire.core.layers.fields import Fields
from quire.core.registry import Registry
from quire.core.source import open_folder
from quire.core.weights.bind import bind
from quire.core.weights.parts import CheckpointParts
from quire.plugins.platforms.cpu import CPU
from quire.quant.create.walk import Walk
from tests.engine.checkpoints import BASE

__all__ = ("CASES", "TOKENS", "make", "walk")

TOKENS = 32
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CASES = {
    "Llama": ("Llama", {}),
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Mistral": ("Mistral", {"sliding_window": 8, "tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {"num_key_value_heads": 1}),
    "Qwen3": ("Qwen3", {"head_dim": 32, "num_key_value_heads": 4}),
}


def make(
    case: str, folder: Path, *, vocab_size: int = 96, dtype: torch.dtype = torch.float32
) -> transformers.PreTrainedModel:
    """Write the case's checkpoint and return transformers' model, both in the dtype."""
    family, values = CASES[case]
    sizes = SIZES | {"vocab_size": vocab_size}
    config = getattr(transformers, f"{family}Config")(**{**BASE, **sizes, **values})
    config.architectures = [f"{family}ForCausalLM"]
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases start at zero and norms at one, which would hide that they are not used.
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model = model.to(dtype)
    model.save_pretrained(folder)
    return model


def walk(folder: Path) -> Walk:
    """Over the folder's layers."""
    source = open_folder(folder)
    architecture = Registry().get("model", source.architecture())
    assert issubclass(architecture, Decoder)
    parts = CheckpointParts(folder)
    return Walk(
        architecture.read(Fields(source.config)),
        CPU(),
        torch.device("cpu"),
        length=TOKENS,
        fill=lambda holders, prefixes: bind(parts.read(prefixes), holders, lambda name: False),
    )
