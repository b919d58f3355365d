"""A Llama for training: parameter names and arithmetic follow Hugging Face's implementation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .tokenizer import CONTEXT, VOCAB_SIZE

__all__ = (
    "SHAPES",
    "Attention",
    "Block",
    "Decoder",
    "Llama",
    "Mlp",
    "Norm",
    "Shape",
    "export",
    "load_weights",
    "rotate",
    "write_configs",
)

_EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    rope_theta: float = 10000.0

    def config(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": _EPSILON,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "bos_token_id": 0,
            "eos_token_id": 5,
            "pad_token_id": 0,
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": True,
        }


SHAPES = {
    "demo": Shape(hidden=256, intermediate=1024, layers=8, heads=4, kv_heads=2),
    "draft": Shape(hidden=128, intermediate=256, layers=3, heads=4, kv_heads=2),
    "tiny": Shape(hidden=64, intermediate=128, layers=2, heads=2, kv_heads=2, head_dim=32),
}


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, size: int) -> None:
        """Create a norm over the last dimension."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in float32."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + _EPSILON)
        return (scaled * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embedding to the two halves of each head."""
    first, second = x.chunk(2, -1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, shape: Shape) -> None:
        """Create the projections."""
        super().__init__()
        self.shape = shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within each row."""
        rows, length, _ = x.shape
        split = (rows, length, -1, self.shape.head_dim)
        q = rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
        return mixed


class Mlp(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        """Create the projections."""
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        """Create the layer."""
        super().__init__()
        self.input_layernorm = Norm(shape.hidden)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply the layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, shape: Shape) -> None:
        """Create the decoder."""
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB_SIZE, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden)

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the final hidden states."""
        x = self.embed_tokens(tokens).to(torch.bfloat16 if tokens.is_cuda else torch.float32)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """A causal language model with tied embeddings."""

    def __init__(self, shape: Shape, seed: int) -> None:
        """Create the model with seeded weights."""
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # Layers start as the identity: training is steady from the first step.
                nn.init.zeros_(weight)
            else:
                scale = 0.02 if "embed" in name else weight.shape[1] ** -0.5
                nn.init.normal_(weight, std=scale, generator=generator)

    def angles(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines."""
        half = self.shape.head_dim // 2
        inverse = self.shape.rope_theta ** (-torch.arange(half, device=device).float() / half)
        turns = torch.outer(torch.arange(length, device=device).float(), inverse)
        return turns.cos(), turns.sin()

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(self.model(tokens, cos, sin), self.model.embed_tokens.weight)


def export(model: Llama, folder: Path) -> None:
    """Write a model as a Hugging Face checkpoint, without the tokenizer.

    Args:
        model: The trained model.
        folder: Checkpoint folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_configs(model.shape, folder)


def write_configs(shape: Shape, folder: Path) -> None:
    """Write `config.json` and `generation_config.json`.

    Args:
        shape: The model's shape.
        folder: Checkpoint folder.
    """
    generation = {"bos_token_id": 0, "eos_token_id": [5, 0], "pad_token_id": 0, "do_sample": False}
    for name, config in (("config", shape.config()), ("generation_config", generation)):
        text = json.dumps(config, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load exported weights into a training model.

    Args:
        model: A model of the same shape.
        path: A safetensors file.
    """
    tensors = load_file(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[name])
