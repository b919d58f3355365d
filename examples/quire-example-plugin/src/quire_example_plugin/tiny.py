"""A made-up checkpoint of the architecture: ``python -m quire_example_plugin.tiny FOLDER``."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

__all__ = ("CONFIG", "write")

CONFIG = {
    "architectures": ["ParallelForCausalLM"],
    "model_type": "parallel",
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "float32",
    "eos_token_id": 256,
}


def write(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write config, random weights and a tokenizer of bytes; returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    tensors = _tensors(torch.Generator().manual_seed(seed))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)} | {"<end>": 256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tensors


def _tensors(random: torch.Generator) -> dict[str, torch.Tensor]:
    hidden, inner, vocabulary = 64, 96, 257
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    norms = ["model.norm"]
    for index in range(2):
        layer = f"model.layers.{index}"
        norms.append(f"{layer}.input_layernorm")
        shapes |= {
            f"{layer}.self_attn.q_proj": (hidden, hidden),
            f"{layer}.self_attn.k_proj": (hidden // 2, hidden),
            f"{layer}.self_attn.v_proj": (hidden // 2, hidden),
            f"{layer}.self_attn.o_proj": (hidden, hidden),
            f"{layer}.mlp.gate_proj": (inner, hidden),
            f"{layer}.mlp.up_proj": (inner, hidden),
            f"{layer}.mlp.down_proj": (hidden, inner),
        }
    tensors = {
        f"{name}.weight": torch.randn(shape, generator=random) * shape[1] ** -0.5
        for name, shape in shapes.items()
    }
    return tensors | {f"{n}.weight": torch.rand(hidden, generator=random) + 0.5 for n in norms}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
