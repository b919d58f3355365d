"""The walk: text through a decoder one layer at a time, each layer held only while it is passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...core.contracts.attention import AttentionSpec, Rotation
from ...core.contracts.model import Attend, BuildContext, TensorHolder
from ...core.contracts.platform import Platform
from ...core.layers.decoder import DecoderLayer, DecoderSpec, layer_name
from ...core.layers.embedding import Embedding
from ...core.layers.linear import make_linear
from ...core.layers.norm import RMSNorm
from ...core.layers.rotary import Rotary
from .site import Gram, Reached, Site, Watched

__all__ = ("Ends", "Fill", "Walk", "WatchedLayer")

Fill = Callable[[Sequence[TensorHolder], tuple[str, ...]], None]
"""Gives holders their tensors: all those of the checkpoint whose names begin so."""

_BATCH_TOKENS = 4096


class WatchedLayer:
    """A decoder layer and its four sites, in the order in which inputs reach them.

    Attributes:
        spec: of the decoder.
        layer: runs.
        qkv: query, key and value projections, behind ``layer.attention_norm``.
        output: behind attention, whose channels are the value projection's.
        gate_up: behind ``layer.mlp_norm``.
        down: behind the gate, whose channels are the up projection's.
    """

    def __init__(self, index: int, spec: DecoderSpec, context: BuildContext) -> None:
        watched = Watched(context.platform)
        context = BuildContext(
            dtype=context.dtype,
            device=context.device,
            quant=watched,
            platform=context.platform,
            max_model_len=context.max_model_len,
        )
        self.spec = spec
        self.layer = DecoderLayer(layer_name(index), index, spec, context)
        self.qkv, self.output, self.gate_up, self.down = watched.sites

    @property
    def sites(self) -> tuple[Site, ...]:
        """All four."""
        return self.qkv, self.output, self.gate_up, self.down


class Walk:
    """Runs a decoder's layers over blocks of text of one length, in float32.

    Args:
        spec: of the decoder.
        platform: of the device; its norms and gates are used.
        device: to compute on.
        length: tokens of a block.
        fill: where weights come from.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        platform: Platform,
        device: torch.device,
        *,
        length: int,
        fill: Fill,
    ) -> None:
        self.spec = spec
        self.device = device
        self._length = length
        self._fill = fill
        self._context = BuildContext(
            dtype=torch.float32,
            device=device,
            quant=Watched(platform),
            platform=platform,
            max_model_len=length,
        )
        self._rotary = Rotary(spec.rope, self._context)

    def layer(self, index: int) -> WatchedLayer:
        """A layer with its weights as the checkpoint has them."""
        watched = WatchedLayer(index, self.spec, self._context)
        self._fill(watched.layer.holders(), (f"{layer_name(index)}.",))
        return watched

    def ends(self) -> Ends:
        """What stands before the first layer and behind the last."""
        return Ends(self.spec, self._context, self._fill)

    def advance(self, layer: WatchedLayer, hidden: torch.Tensor) -> None:
        """Let hidden states, float32 [blocks, length, hidden size], pass a layer, in place."""
        for x in self._batches(hidden):
            layer.layer(x, self._rotation(len(x)), self._attend())

    def collect(
        self, layer: WatchedLayer, sites: Sequence[Site], hidden: torch.Tensor
    ) -> list[Gram]:
        """Sums over the inputs of sites, given in the order in which inputs reach them.

        Hidden states stay as they are.
        """
        last = sites[-1]
        for site in sites:
            site.gram = Gram(site.spec.in_features, self.device, last=site is last)
        for x in self._batches(hidden):
            try:
                layer.layer(x.clone(), self._rotation(len(x)), self._attend())
            except Reached:
                continue
        grams = [site.gram for site in sites if site.gram is not None]
        for site in sites:
            site.gram = None
        return grams

    def _batches(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """Views [tokens, hidden size] of several whole blocks."""
        for part in torch.split(hidden, max(1, _BATCH_TOKENS // self._length)):
            yield part.view(-1, part.shape[-1])

    def _rotation(self, tokens: int) -> Rotation:
        positions = torch.arange(self._length, device=self.device)
        return self._rotary.at(positions.repeat(tokens // self._length))

    def _attend(self) -> Attend:
        def attend(
            layer: int,
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            rotation: Rotation | None = None,
        ) -> torch.Tensor:
            if rotation is not None:
                rotation.apply(q, k)
            return _attention(q, k, v, self.spec.attention(layer), self._length)

        return attend


class Ends:
    """Embedding, last norm and head.

    Args:
        spec: of the decoder.
        context: what to build with.
        fill: where weights come from.
    """

    def __init__(self, spec: DecoderSpec, context: BuildContext, fill: Fill) -> None:
        self._embedding = Embedding(
            "model.embed_tokens", spec.vocab_size, spec.hidden_size, context, tied=False
        )
        self._norm = RMSNorm("model.norm", spec.hidden_size, spec.norm_eps, context)
        holders: list[TensorHolder] = [self._embedding, self._norm]
        self._head: Any = None
        if not spec.tied:
            shape = (("lm_head",), (spec.vocab_size,), spec.hidden_size)
            self._head = make_linear(*shape, bias=False, context=context)
            holders.append(self._head)
        prefixes = ("model.embed_tokens.", "model.norm.") + (() if spec.tied else ("lm_head.",))
        fill(holders, prefixes)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [blocks, length] -> float32 [blocks, length, hidden size]."""
        return self._embedding(tokens)

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of them.

        Args:
            dtype: to store them in.
        """
        held = {x.name: x.data.to(dtype) for x in (self._embedding, self._norm)}
        if self._head is not None:
            held["lm_head.weight"] = self._head.weight.to(dtype)
        return held

    def perplexity(self, hidden: torch.Tensor, tokens: torch.Tensor) -> float:
        """exp of the mean surprise at each block's tokens, the first of each left out.

        Args:
            hidden: float32 [blocks, length, hidden size], behind the last layer.
            tokens: int64 [blocks, length].
        """
        head = self._embedding.data if self._head is None else self._head.weight
        total = 0.0
        for states, ids in zip(hidden, tokens, strict=True):
            logits = F.linear(self._norm(states[:-1]), head)
            total += float(F.cross_entropy(logits, ids[1:], reduction="sum"))
        return math.exp(total / (tokens.numel() - len(tokens)))


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec, length: int
) -> torch.Tensor:
    """Causal attention inside each block: [T, heads, head_dim] -> [T, heads * head_dim]."""
    q, k, v = (x.view(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    repeats = spec.num_heads // spec.num_kv_heads
    k, v = (x.repeat_interleave(repeats, 1) for x in (k, v))
    mask = None
    if spec.window is not None and spec.window < length:
        seen = torch.ones(length, length, dtype=torch.bool, device=q.device).tril_()
        mask = seen.triu_(1 - spec.window)
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=spec.scale
    )
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)
