"""EAGLE heads as modules: one decoder layer that goes on from the model's hidden states.

Li et al., EAGLE, arXiv 2401.15077, and EAGLE-3, arXiv 2503.01840; names of tensors and keys as in
the authors' checkpoints, SpecForge's, and those of the speculators library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ...core.contracts.attention import AttentionSpec
from ...core.contracts.model import Architecture, Attend, BuildContext, TensorHolder
from ...core.errors import CheckpointError
from ...core.layers.attention import AttentionBlock, AttentionParts
from ...core.layers.decoder import DecoderSpec
from ...core.layers.embedding import Embedding
from ...core.layers.fields import Fields
from ...core.layers.linear import make_linear
from ...core.layers.mlp import GatedMLP
from ...core.layers.norm import RMSNorm
from ...core.layers.rotary import Rotary
from ...core.source import Source
from ...core.weights.stream import tensor_names

__all__ = ("Eagle1Head", "Eagle3Head", "Head", "head_config", "version_of")

_ARCHITECTURES = {
    "EagleLlamaForCausalLM": 1,
    "EagleModel": 1,
    "EagleSpeculator": 1,
    "LlamaForCausalLMEagle": 1,
    "LlamaForCausalLMEagle3": 3,
    "Eagle3LlamaForCausalLM": 3,
    "Eagle3Speculator": 3,
    "Eagle3DraftModel": 3,
}


def head_config(source: Source) -> dict[str, Any]:
    """config.json with the layer's keys at its top, where speculators keeps them in a section."""
    layer = source.config.get("transformer_layer_config")
    return source.config | layer if isinstance(layer, dict) else source.config


def version_of(source: Source) -> int | None:
    """1 or 3, or None for a checkpoint that is no EAGLE head.

    EAGLE-1's authors call theirs a Llama; what tells it apart is the layer ``fc``.

    Raises:
        CheckpointError: for missing or malformed files.
    """
    named = source.config.get("architectures") or [None]
    version = _ARCHITECTURES.get(named[0])
    if version is None and source.config.get("model_type") == "eagle":
        version = 1
    if version is None and named[0] == "LlamaForCausalLM":
        names = tensor_names(source.folder)
        fused = any(name.removeprefix("model.").startswith("fc.") for name in names)
        version = 1 if fused else None
    return 3 if version == 1 and source.config.get("draft_vocab_size") is not None else version


class Head(ABC):
    """What both versions have: a layer, and an embedding and an output that may be the model's.

    Args:
        source: of the head's files.
        context: what to build with.
        model: that the head drafts for.
        target_size: width of the model's hidden states.

    Raises:
        CheckpointError: for a config that is not understood.
    """

    def __init__(
        self, source: Source, context: BuildContext, model: Architecture, target_size: int
    ) -> None:
        config = Fields(head_config(source))
        self.spec = DecoderSpec.read(config)
        if self.spec.num_layers != 1:
            raise config.misfit("num_hidden_layers", "must be 1 for an EAGLE head")
        self.names = tensor_names(source.folder)
        nested = any(name.startswith("model.") for name in self.names)
        self.prefix = "model." if nested else ""
        self._model = model
        self._rotary = Rotary(self.spec.rope, context)
        self._embedding: Embedding | None = None
        size = self.spec.hidden_size
        if f"{self.prefix}embed_tokens.weight" in self.names:
            self._embedding = Embedding(
                f"{self.prefix}embed_tokens", self.spec.vocab_size, size, context, tied=False
            )
        elif size != target_size:
            raise config.misfit("hidden_size", f"must be the model's, {target_size}")
        self.fc = make_linear(
            (f"{self.prefix}fc",),
            (size,),
            self._inputs(config, target_size),
            bias=f"{self.prefix}fc.bias" in self.names,
            context=context,
        )
        middle = f"{self.prefix}midlayer"
        self.layer = middle
        if not any(name.startswith(f"{middle}.") for name in self.names):
            self.layer = f"{self.prefix}layers.0"
        bias = config.flag("attention_bias", False)
        self.attention = AttentionBlock(
            f"{self.layer}.self_attn",
            0,
            self.spec.attention(0),
            AttentionParts(
                hidden_size=size,
                input_size=self._layer_inputs(),
                qkv_bias=bias,
                output_bias=bias,
            ),
            context,
        )
        self.mlp_norm = RMSNorm(
            f"{self.layer}.post_attention_layernorm", size, self.spec.norm_eps, context
        )
        self.mlp = GatedMLP(
            f"{self.layer}.mlp",
            size,
            self.spec.intermediate_size,
            act=self.spec.act,
            bias=config.flag("mlp_bias", False),
            context=context,
        )
        self._lm_head = None
        if "lm_head.weight" in self.names:
            rows = config.integer("draft_vocab_size", self.spec.vocab_size)
            self._lm_head = make_linear(("lm_head",), (rows,), size, bias=False, context=context)

    @abstractmethod
    def _inputs(self, config: Fields, target_size: int) -> int:
        """Width of what ``fc`` reads."""

    @abstractmethod
    def _layer_inputs(self) -> int:
        """Width of what the layer's attention reads."""

    @abstractmethod
    def attended(
        self, hidden: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """``forward`` up to its MLP: whatever it keeps in the cache is there."""

    def forward(
        self, hidden: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Go on by a token.

        Args:
            hidden: [T, hidden size] of the tokens before, from ``fuse`` or from here; it may be
                written into.
            token_ids: int64 [T].
            positions: int64 [T], of the tokens before.
            attend: this step's attention.

        Returns:
            [T, hidden size]: what the model's hidden states of the T tokens are thought to be.
        """
        x = self.attended(hidden, token_ids, positions, attend)
        return self.mlp(x, norm=self.mlp_norm, add=x)

    def hidden_layers(self, count: int) -> tuple[int, ...]:
        """Which hidden states of a model of so many layers it reads; see ``Speculator``.

        Raises:
            CheckpointError: for layers that the model does not have.
        """
        del count
        return ()

    def fuse(self, shown: torch.Tensor) -> torch.Tensor:
        """Hidden states of the model, [T, width] -> [T, hidden size] as ``forward`` reads them."""
        return shown

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden size] from ``forward`` -> [M, the model's vocabulary]."""
        return self._model.logits(hidden) if self._lm_head is None else self._lm_head.apply(hidden)

    def attention_layers(self) -> list[AttentionSpec]:
        """The one layer."""
        return [self.attention.spec]

    def holders(self) -> list[TensorHolder]:
        """Everything that takes tensors."""
        held: list[TensorHolder] = [self.fc, *self.attention.holders()]
        held += [self.mlp_norm, *self.mlp.holders()]
        held += [part for part in (self._embedding, self._lm_head) if part is not None]
        return held

    def ignores(self, name: str) -> bool:
        """Frequencies that older checkpoints store, and the inverse of ``d2t``."""
        return name.endswith(".rotary_emb.inv_freq") or name == "t2d"

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [T] -> [T, hidden size]."""
        return (
            self._model.embed(token_ids) if self._embedding is None else self._embedding(token_ids)
        )


class Eagle1Head(Head):
    """EAGLE: fc over the next token's embedding and the last hidden state, then a layer without an
    input norm, whose output the model's own head reads."""

    def __init__(
        self, source: Source, context: BuildContext, model: Architecture, target_size: int
    ) -> None:
        super().__init__(source, context, model, target_size)
        config = Fields(head_config(source))
        config.refuse_unless("add_para_norm", False)
        if self.spec.hidden_size != target_size:
            raise config.misfit("hidden_size", f"must be the model's, {target_size}")

    def _inputs(self, config: Fields, target_size: int) -> int:
        return self.spec.hidden_size + target_size

    def _layer_inputs(self) -> int:
        return self.spec.hidden_size

    def attended(
        self, hidden: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        x = self.fc.apply(torch.cat((self.embed(token_ids), hidden), -1))
        return self.attention(x, self._rotary.at(positions), attend, add=x)


class Eagle3Head(Head):
    """EAGLE-3: fc over hidden states of several layers; a layer that reads them beside the next
    token's embedding; a norm and a head of its own, over a part of the vocabulary."""

    def __init__(
        self, source: Source, context: BuildContext, model: Architecture, target_size: int
    ) -> None:
        config = Fields(head_config(source))
        super().__init__(source, context, model, target_size)
        self._layers = _layers(config)
        size, eps = self.spec.hidden_size, self.spec.norm_eps
        self._input_norm = RMSNorm(f"{self.layer}.input_layernorm", size, eps, context)
        self._hidden_norm = RMSNorm(f"{self.layer}.hidden_norm", size, eps, context)
        self._norm = RMSNorm(f"{self.prefix}norm", size, eps, context)
        self._norms_first = config.flag("norm_before_residual", False)
        drafted = config.integer("draft_vocab_size", self.spec.vocab_size)
        self._ids = (
            _DraftIds(drafted, self.spec.vocab_size, context) if "d2t" in self.names else None
        )
        if self._ids is None and drafted != self.spec.vocab_size:
            raise CheckpointError(
                f"the head drafts {drafted} of {self.spec.vocab_size} tokens, and no tensor d2t "
                "says which; fetch it again"
            )
        if self._lm_head is None and (size != target_size or self._ids is not None):
            raise CheckpointError("the head has no lm_head.weight, and the model's does not fit it")

    def _inputs(self, config: Fields, target_size: int) -> int:
        return 3 * config.integer("target_hidden_size", target_size)

    def _layer_inputs(self) -> int:
        return 2 * self.spec.hidden_size

    def hidden_layers(self, count: int) -> tuple[int, ...]:
        # Low, middle and high, as the authors chose, where the config says nothing.
        layers = self._layers or (2, count // 2, count - 3)
        if len(set(layers)) != 3 or not all(0 <= layer <= count for layer in layers):
            raise CheckpointError(
                f"the head reads the model's layers {layers}, and the model has {count}; it was "
                "trained for another model"
            )
        return layers

    def holders(self) -> list[TensorHolder]:
        held = super().holders()
        held += [self._input_norm, self._hidden_norm, self._norm]
        return held if self._ids is None else [*held, self._ids]

    def fuse(self, shown: torch.Tensor) -> torch.Tensor:
        return self.fc.apply(shown)

    def attended(
        self, hidden: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        embedded = self._input_norm(self.embed(token_ids))
        normed = self._hidden_norm(hidden)
        x = torch.cat((embedded, normed), -1)
        residual = normed if self._norms_first else hidden
        return self.attention(x, self._rotary.at(positions), attend, add=residual)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(self._norm(hidden))
        return logits if self._ids is None else self._ids.spread(logits)


class _DraftIds:
    """``d2t``: for each token that the head can draft, by how much the model's id is larger."""

    def __init__(self, drafted: int, vocab_size: int, context: BuildContext) -> None:
        self._drafted = drafted
        self._vocab_size = vocab_size
        self._ids = torch.arange(drafted, device=context.device)

    def names(self) -> set[str]:
        return {"d2t"}

    def optional(self) -> set[str]:
        return set()

    def load(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.shape != self._ids.shape or tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; it must be "
                f"{self._drafted} integers"
            )
        ids = torch.arange(self._drafted) + tensor.long()
        if int(ids.min()) < 0 or int(ids.max()) >= self._vocab_size:
            raise CheckpointError(f"{name} names tokens outside the vocabulary; fetch it again")
        self._ids.copy_(ids)

    def make_up(self, generator: torch.Generator) -> None:
        """The first tokens."""

    def finish(self) -> None:
        """Nothing to prepare."""

    def spread(self, logits: torch.Tensor) -> torch.Tensor:
        """[M, drafted] -> [M, vocabulary], minus infinity for what cannot be drafted."""
        whole = logits.new_full((len(logits), self._vocab_size), -torch.inf)
        return whole.index_copy_(1, self._ids, logits)


def _layers(config: Fields) -> tuple[int, ...] | None:
    """Layers whose inputs the head reads, where its config says; None for the usual ones.

    ``eagle_aux_hidden_state_layer_ids`` counts from the embedding on, as here. In the section
    ``eagle_config``, where SpecForge has it, it names layers by whose outputs are read.
    """
    key = "eagle_aux_hidden_state_layer_ids"
    for section, shift in ((config, 0), (config.section("eagle_config"), 1)):
        if section.has(key):
            ids = section.integers(key)
            if len(ids) != 3:
                raise section.misfit(key, "must hold three layers")
            return tuple(index + shift for index in ids)
    return None
