"""A decoder whose layers add attention and MLP of one norm: x + attention(n(x)) + mlp(n(x)).

The arrangement is that of GPT-J; the parts are those of Llama, taken from quire's layers, and the
tensors are named as Llama's, without ``post_attention_layernorm``.
"""

from __future__ import annotations

from typing import Any, Self

import torch

from quire.core.contracts.attention import AttentionSpec
from quire.core.contracts.model import Architecture, Attend, BuildContext, TensorHolder
from quire.core.layers.attention import AttentionBlock, AttentionParts
from quire.core.layers.decoder import DecoderSpec
from quire.core.layers.embedding import Embedding
from quire.core.layers.fields import Fields
from quire.core.layers.linear import make_linear
from quire.core.layers.mlp import GatedMLP
from quire.core.layers.norm import RMSNorm
from quire.core.layers.rotary import Rotary

__all__ = ("Parallel",)


class _Layer:
    """One norm, attention and MLP side by side."""

    def __init__(self, index: int, spec: DecoderSpec, context: BuildContext) -> None:
        name = f"model.layers.{index}"
        hidden = spec.hidden_size
        self.norm = RMSNorm(f"{name}.input_layernorm", hidden, spec.norm_eps, context)
        self.attention = AttentionBlock(
            f"{name}.self_attn",
            index,
            spec.attention(index),
            AttentionParts(hidden_size=hidden),
            context,
        )
        self.mlp = GatedMLP(
            f"{name}.mlp",
            hidden,
            spec.intermediate_size,
            act=spec.act,
            bias=False,
            context=context,
        )

    def holders(self) -> list[TensorHolder]:
        return [self.norm, *self.attention.holders(), *self.mlp.holders()]


class Parallel(Architecture):
    """ParallelForCausalLM.

    Args:
        spec: read from config.json.
        context: what to build with.
    """

    def __init__(self, spec: DecoderSpec, context: BuildContext) -> None:
        self.spec = spec
        self._embedding = Embedding(
            "model.embed_tokens", spec.vocab_size, spec.hidden_size, context, tied=False
        )
        self._rotary = Rotary(spec.rope, context)
        self._layers = [_Layer(index, spec, context) for index in range(spec.num_layers)]
        self._norm = RMSNorm("model.norm", spec.hidden_size, spec.norm_eps, context)
        self._head = make_linear(
            ("lm_head",), (spec.vocab_size,), spec.hidden_size, bias=False, context=context
        )

    @classmethod
    def build(cls, config: dict[str, Any], context: BuildContext) -> Self:
        """Read the keys that Llama has, too."""
        return cls(DecoderSpec.read(Fields(config)), context)

    def attention_layers(self) -> list[AttentionSpec]:
        """The same for every layer but for what a checkpoint says of its keys and values."""
        return [layer.attention.spec for layer in self._layers]

    def holders(self) -> list[TensorHolder]:
        """Every part with weights."""
        parts: list[TensorHolder] = [self._embedding]
        for layer in self._layers:
            parts += layer.holders()
        return [*parts, self._norm, self._head]

    def ignores(self, name: str) -> bool:
        """No tensor goes untaken."""
        return False

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """[T] -> [T, hidden size]."""
        x = self._embedding(token_ids)
        rotation = self._rotary.at(positions)
        for layer in self._layers:
            normed = layer.norm(x)
            mixed = layer.attention(normed, rotation, attend)
            x = x + mixed + layer.mlp(normed)
        return self._norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden size] -> [M, vocabulary]."""
        return self._head.apply(hidden)
