"""The decoder that most families are: embedding, pre-norm layers, a last norm and a head."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import msgspec
import torch

from ..contracts.attention import AttentionSpec, Rotation
from ..contracts.capabilities import Capabilities
from ..contracts.model import Architecture, Attend, BuildContext, LastLayer, Tap, TensorHolder
from ..contracts.quant import LinearWeights
from .attention import AttentionBlock, AttentionParts
from .embedding import Embedding
from .fields import Fields
from .linear import make_linear
from .mlp import ACTIVATIONS, GatedMLP
from .norm import RMSNorm
from .rope_scaling import RopeSpec
from .rotary import Rotary

__all__ = ("Decoder", "DecoderLayer", "DecoderSpec", "layer_name")

# Far more than any model has; each is a handful of objects before a byte of it is read.
_MAX_LAYERS = 4096


class DecoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder as its family reads it from config.json.

    Attributes:
        vocab_size: rows of the embedding and of the head.
        hidden_size: width of the residual stream.
        intermediate_size: of the MLP.
        num_layers: of layers.
        num_heads: query heads.
        num_kv_heads: key and value heads.
        head_dim: width of a head.
        norm_eps: of the RMS norms.
        rope: rotary positions.
        act: the MLP's activation, a key of ACTIVATIONS.
        tied: whether the head is the embedding.
        qkv_bias: of the query, key and value projections.
        output_bias: of the attention's output projection.
        mlp_bias: of the MLP's three projections.
        head_norms: whether queries and keys get an RMS norm a head.
        windows: a layer's sliding window, or None, for each layer; empty for none at all.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeSpec
    act: str
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    windows: tuple[int | None, ...] = ()

    @classmethod
    def read(cls, config: Fields, *, head_dim: int | None = None) -> DecoderSpec:
        """Read the keys that every family shares.

        Args:
            config: config.json.
            head_dim: where the config names none; None for hidden_size / num_attention_heads.

        Raises:
            CheckpointError: for a missing, unfit or unsupported value, naming the key.
        """
        hidden = config.integer("hidden_size")
        heads = config.integer("num_attention_heads")
        kv_heads = config.integer("num_key_value_heads", heads)
        if heads % kv_heads:
            raise config.misfit("num_attention_heads", "must be a multiple of num_key_value_heads")
        if head_dim is None and not config.has("head_dim"):
            if hidden % heads:
                raise config.misfit("hidden_size", "must be a multiple of num_attention_heads")
            head_dim = hidden // heads
        head_dim = config.integer("head_dim", head_dim)
        return cls(
            vocab_size=config.integer("vocab_size"),
            hidden_size=hidden,
            intermediate_size=config.integer("intermediate_size"),
            num_layers=config.integer("num_hidden_layers", most=_MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            norm_eps=config.number("rms_norm_eps", 1e-6),
            rope=RopeSpec.read(config, head_dim),
            act=config.choice("hidden_act", tuple(ACTIVATIONS), "silu"),
            tied=config.flag("tie_word_embeddings", False),
        )

    def attention(self, layer: int) -> AttentionSpec:
        """Geometry of a layer's attention."""
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            window=self.windows[layer] if self.windows else None,
        )

    def products(self) -> tuple[tuple[str, int, int], ...]:
        """A layer's matrices: module below the layer, outputs, inputs."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        )


def layer_name(index: int) -> str:
    """Name of a layer's module in the checkpoint."""
    return f"model.layers.{index}"


class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        name: of the module in the checkpoint.
        index: of the layer.
        spec: of the decoder.
        context: what to build with.
    """

    def __init__(self, name: str, index: int, spec: DecoderSpec, context: BuildContext) -> None:
        parts = AttentionParts(
            hidden_size=spec.hidden_size,
            qkv_bias=spec.qkv_bias,
            output_bias=spec.output_bias,
            head_norm_eps=spec.norm_eps if spec.head_norms else None,
        )
        self.attention_norm = RMSNorm(
            f"{name}.input_layernorm", spec.hidden_size, spec.norm_eps, context
        )
        self.attention = AttentionBlock(
            f"{name}.self_attn", index, spec.attention(index), parts, context
        )
        self.mlp_norm = RMSNorm(
            f"{name}.post_attention_layernorm", spec.hidden_size, spec.norm_eps, context
        )
        self.mlp = GatedMLP(
            f"{name}.mlp",
            spec.hidden_size,
            spec.intermediate_size,
            act=spec.act,
            bias=spec.mlp_bias,
            context=context,
        )

    def holders(self) -> list[TensorHolder]:
        """Norms and products."""
        return [
            self.attention_norm,
            *self.attention.holders(),
            self.mlp_norm,
            *self.mlp.holders(),
        ]

    def __call__(
        self,
        x: torch.Tensor,
        rotation: Rotation,
        attend: Attend,
        last: LastLayer | None = None,
    ) -> torch.Tensor:
        """[T, hidden_size] -> [T, hidden_size], or [M, hidden_size]; x may be written into.

        Args:
            x: the input.
            rotation: of the T positions.
            attend: this step's attention.
            last: where M tokens go on.
        """
        kept = x
        if last is not None:
            kept, attend = x.index_select(0, last.tokens), last.attend
        x = self.attention(x, rotation, attend, norm=self.attention_norm, add=kept)
        return self.mlp(x, norm=self.mlp_norm, add=x)


class Decoder(Architecture):
    """A family subclasses this and says how its config is read.

    Args:
        spec: the family's reading of config.json.
        context: what to build with.
    """

    capabilities = Capabilities(features=frozenset({"graphs", "hidden_states", "chosen_tokens"}))

    def __init__(self, spec: DecoderSpec, context: BuildContext) -> None:
        self.spec = spec
        self._embedding = Embedding(
            "model.embed_tokens", spec.vocab_size, spec.hidden_size, context, tied=spec.tied
        )
        self._rotary = Rotary(spec.rope, context)
        self._layers = [
            DecoderLayer(layer_name(index), index, spec, context)
            for index in range(spec.num_layers)
        ]
        self._norm = RMSNorm("model.norm", spec.hidden_size, spec.norm_eps, context)
        self._head: LinearWeights | None = None
        if not spec.tied:
            self._head = make_linear(
                ("lm_head",), (spec.vocab_size,), spec.hidden_size, bias=False, context=context
            )

    @classmethod
    @abstractmethod
    def read(cls, config: Fields) -> DecoderSpec:
        """Read the family's config.json.

        Raises:
            CheckpointError: for a missing, unfit or unsupported value, naming the key.
        """

    @classmethod
    def build(cls, config: dict[str, Any], context: BuildContext) -> Self:
        return cls(cls.read(Fields(config)), context)

    def attention_layers(self) -> list[AttentionSpec]:
        return [layer.attention.spec for layer in self._layers]

    def holders(self) -> list[TensorHolder]:
        held: list[TensorHolder] = [self._embedding]
        for layer in self._layers:
            held += layer.holders()
        held.append(self._norm)
        if self._head is not None:
            held.append(self._head)
        return held

    def ignores(self, name: str) -> bool:
        # Older checkpoints store the rotary frequencies, and some store a tied head all the same.
        return name.endswith(".rotary_emb.inv_freq") or (
            self.spec.tied and name == "lm_head.weight"
        )

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        tap: Tap | None = None,
        last: LastLayer | None = None,
    ) -> torch.Tensor:
        x = self.embed(token_ids)
        rotation = self._rotary.at(positions)
        for index, layer in enumerate(self._layers):
            if tap is not None:
                tap(index, x)
            ends = index == len(self._layers) - 1
            x = layer(x, rotation, attend, last if ends else None)
        if tap is not None:
            tap(len(self._layers), x)
        return self._norm(x)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self._embedding(token_ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        project = self._embedding.project if self._head is None else self._head.apply
        if project is None:
            raise RuntimeError("logits were asked for before the weights were loaded")
        return project(hidden)
