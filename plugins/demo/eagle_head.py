"""An EAGLE-3 head for training: names and arithmetic follow the published checkpoints.

Li et al., EAGLE-3, arXiv 2503.01840. Trained as it is used: the first draft sees the model's
hidden states, each later one what the head itself put out for the draft before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .model import Llama, Mlp, Norm, Shape, rotate

__all__ = ("HEAD", "LAYERS", "EagleHead", "export_head", "features_of")

HEAD = Shape(hidden=256, intermediate=512, layers=1, heads=4, kv_heads=2)
# Hidden states that the head sees, by the layer of the demo model that reads them.
LAYERS = (2, 5, 7)


class _Attention(nn.Module):
    """Attention over the model's past and, along a chain of drafts, over the chain itself."""

    def __init__(self, shape: Shape) -> None:
        """Create the projections, whose inputs are twice as wide."""
        super().__init__()
        self.shape = shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(2 * shape.hidden, width, bias=False)
        self.k_proj = nn.Linear(2 * shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(2 * shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries and keys, and values: (rows, heads, length, width)."""
        rows, length, _ = x.shape
        split = (rows, length, -1, self.shape.head_dim)
        groups = self.shape.heads // self.shape.kv_heads
        q = rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        return q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)

    def attend(self, q: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attend causally to the first keys and, query by query, to the same entry of the others.

        Entry n of the keys of a later draft belongs to the chain behind token n alone.
        """
        length = q.shape[2]
        keys, values = past[0][0][:, :, :length], past[0][1][:, :, :length]
        scores = q @ keys.mT
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        parts = [scores.masked_fill(future, float("-inf"))]
        parts += [(q * k[:, :, :length]).sum(-1, keepdim=True) for k, _ in past[1:]]
        weights = (torch.cat(parts, -1) * self.shape.head_dim**-0.5).softmax(-1)
        out = weights[..., :length] @ values
        for index, (_, v) in enumerate(past[1:]):
            out = out + weights[..., length + index, None] * v[:, :, :length]
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed


class _Layer(nn.Module):
    """The head's one layer."""

    def __init__(self, shape: Shape) -> None:
        """Create the layer."""
        super().__init__()
        self.hidden_norm = Norm(shape.hidden)
        self.input_layernorm = Norm(shape.hidden)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden)
        self.mlp = Mlp(shape)


class EagleHead(nn.Module):
    """Drafts for the demo model, whose embedding it borrows."""

    def __init__(self, model: Llama, vocabulary: Tensor, seed: int) -> None:
        """Create a head with seeded weights, and with the model's own where it has their like.

        Args:
            model: That it drafts for.
            vocabulary: int64, ids of the tokens that it can draft, rising.
            seed: Of the weights.
        """
        super().__init__()
        hidden = HEAD.hidden
        self.vocabulary = vocabulary
        self.fc = nn.Linear(len(LAYERS) * hidden, hidden, bias=False)
        self.midlayer = _Layer(HEAD)
        self.norm = Norm(hidden)
        self.lm_head = nn.Linear(hidden, len(vocabulary), bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
        with torch.no_grad():
            self.norm.weight.copy_(model.model.norm.weight)
            self.lm_head.weight.copy_(model.model.embed_tokens.weight[vocabulary])
            # The highest of the hidden states passes through at first.
            self.fc.weight[:, :-hidden] *= 0.1
            self.fc.weight[:, -hidden:] = torch.eye(hidden)

    def chain(
        self, embedded: Tensor, features: Tensor, cos: Tensor, sin: Tensor, drafts: int
    ) -> Iterator[Tensor]:
        """Yield the logits of each draft of the chains behind all tokens.

        Args:
            embedded: (rows, length + drafts - 1, hidden), of the tokens from the second one on.
            features: (rows, length + drafts - 1, hidden states), of the tokens.
            cos: Rotary cosines, a row a position.
            sin: Rotary sines.
            drafts: Of each chain.

        Yields:
            (rows, length + drafts - 1 - index, vocabulary): of the draft behind the token after
            next of each token, of the one behind that, and so on.
        """
        layer = self.midlayer
        hidden, past = self.fc(features), []
        for index in range(drafts):
            length = embedded.shape[1] - index
            hidden = hidden[:, :length]
            at = slice(index, index + length)
            both = (layer.input_layernorm(embedded[:, at]), layer.hidden_norm(hidden))
            q, k, v = layer.self_attn.project(torch.cat(both, -1), cos[at], sin[at])
            past.append((k, v))
            hidden = hidden + layer.self_attn.attend(q, past)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            yield self.lm_head(self.norm(hidden))


def features_of(model: Llama, tokens: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states that a head sees, side by side, and the model's logits."""
    x = model.model.embed_tokens(tokens)
    kept = []
    for index, layer in enumerate(model.model.layers):
        if index in LAYERS:
            kept.append(x)
        x = layer(x, cos, sin)
    logits = F.linear(model.model.norm(x), model.model.embed_tokens.weight)
    return torch.cat(kept, -1), logits


def export_head(head: EagleHead, folder: Path) -> None:
    """Write a head as a Hugging Face checkpoint.

    Args:
        head: The trained head.
        folder: Checkpoint folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous()
        for name, weight in head.named_parameters()
    }
    config = HEAD.config()
    # A draft's id plus its entry is the model's id.
    tensors["d2t"] = head.vocabulary - torch.arange(len(head.vocabulary))
    tensors["t2d"] = torch.zeros(config["vocab_size"], dtype=torch.bool)
    tensors["t2d"][head.vocabulary] = True
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config |= {
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": len(head.vocabulary),
        "eagle_aux_hidden_state_layer_ids": list(LAYERS),
        "tie_word_embeddings": False,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
