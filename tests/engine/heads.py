"""EAGLE heads with made-up weights, as checkpoints and as plain arithmetic in float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from quire.plugins.speculation.eagle import Eagle

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
EPS = 1e-6
LAYERS = [0, 1, 2]
"""Of a model of two layers: embedding, between them, and before the last norm."""


def make_head(
    version: int, folder: Path, model: transformers.PreTrainedModel, **changes: Any
) -> dict[str, torch.Tensor]:
    """Write a head for a model; its tensors, in float64.

    Args:
        version: 1 or 3.
        folder: to write to.
        model: that it drafts for.
        changes: of config.json; ``layer`` and ``prefix`` name tensors, ``bias``, ``embedding`` and
            ``head`` say which there are.
    """
    generator = torch.Generator().manual_seed(version)
    size, vocabulary = model.config.hidden_size, model.config.vocab_size
    inner, head_dim = 24, changes.get("head_dim", HEAD_DIM)

    def made(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    def norm() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(size, generator=generator)

    prefix = changes.pop("prefix", "")
    layer = prefix + changes.pop("layer", "layers.0" if version == 1 else "midlayer")
    wide = size if version == 1 else 2 * size
    tensors = {
        f"{prefix}fc.weight": made(size, 2 * size if version == 1 else 3 * size),
        f"{layer}.self_attn.q_proj.weight": made(HEADS * head_dim, wide),
        f"{layer}.self_attn.k_proj.weight": made(KV_HEADS * head_dim, wide),
        f"{layer}.self_attn.v_proj.weight": made(KV_HEADS * head_dim, wide),
        f"{layer}.self_attn.o_proj.weight": made(size, HEADS * head_dim),
        f"{layer}.post_attention_layernorm.weight": norm(),
        f"{layer}.mlp.gate_proj.weight": made(inner, size),
        f"{layer}.mlp.up_proj.weight": made(inner, size),
        f"{layer}.mlp.down_proj.weight": made(size, inner),
    }
    if changes.pop("bias", False):
        tensors[f"{prefix}fc.bias"] = torch.randn(size, generator=generator)
    if changes.pop("embedding", False):
        tensors[f"{prefix}embed_tokens.weight"] = made(vocabulary, size)
    drafted = changes.get("draft_vocab_size", vocabulary)
    if version == 3:
        tensors[f"{layer}.input_layernorm.weight"] = norm()
        tensors[f"{layer}.hidden_norm.weight"] = norm()
        tensors[f"{prefix}norm.weight"] = norm()
    if changes.pop("head", version == 3):
        tensors["lm_head.weight"] = made(drafted, size)
    if drafted != vocabulary:
        chosen = torch.randperm(vocabulary, generator=generator)[:drafted].sort().values
        tensors["d2t"] = chosen - torch.arange(drafted)
        tensors["t2d"] = torch.isin(torch.arange(vocabulary), chosen)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM" if version == 1 else "LlamaForCausalLMEagle3"],
        "hidden_size": size,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128,
        "rms_norm_eps": EPS,
    }
    if version == 3:
        config |= {"draft_vocab_size": drafted, "eagle_aux_hidden_state_layer_ids": LAYERS}
    config |= changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return {
        name.removeprefix(prefix).replace(layer.removeprefix(prefix), "layer"): tensor
        if name == "d2t"
        else tensor.double()
        for name, tensor in tensors.items()
    }


class Oracle:
    """Drafts by computing everything anew for every token, without a cache.

    Args:
        version: 1 or 3.
        tensors: from ``make_head``.
        model: in float64.
        norm_first: ``norm_before_residual``.
    """

    def __init__(
        self,
        version: int,
        tensors: dict[str, torch.Tensor],
        model: transformers.PreTrainedModel,
        *,
        norm_first: bool = False,
    ) -> None:
        self._version = version
        self._tensors = {name.removesuffix(".weight"): t for name, t in tensors.items()}
        self._model = model
        self._norm_first = norm_first

    @torch.no_grad()
    def drafts(self, tokens: list[int], count: int) -> list[int]:
        """The chain of likeliest tokens behind these."""
        states = self._model(torch.tensor([tokens[:-1]]), output_hidden_states=True).hidden_states
        if self._version == 1:
            hidden = states[-1][0]
        else:
            # The last of transformers' hidden states has the norm applied.
            last: list[torch.Tensor] = []
            hook = self._model.model.norm.register_forward_pre_hook(
                lambda module, args: last.append(args[0])
            )
            self._model(torch.tensor([tokens[:-1]]))
            hook.remove()
            hidden = torch.cat([states[0][0], states[1][0], last[0][0]], -1)
            hidden = self._fused(hidden)
        found: list[int] = []
        for _ in range(count):
            known = torch.tensor([*tokens[1:], *found])
            out = self._layer(hidden, known)
            found.append(int(self._logits(out[-1]).argmax()))
            hidden = torch.cat((hidden, out[-1:]))
        return found

    def _fused(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._tensors["fc"], self._tensors.get("fc.bias"))

    def _embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        own = self._tensors.get("embed_tokens")
        return self._model.model.embed_tokens(tokens) if own is None else own[tokens]

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * self._tensors[name]

    def _layer(self, hidden: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        weights = self._tensors
        embedded = self._embedded(known)
        if self._version == 1:
            residual = wide = self._fused(torch.cat((embedded, hidden), -1))
        else:
            normed = self._norm(hidden, "layer.hidden_norm")
            residual = normed if self._norm_first else hidden
            wide = torch.cat((self._norm(embedded, "layer.input_layernorm"), normed), -1)
        count = len(wide)
        angles = torch.outer(
            torch.arange(count).double(),
            10000.0 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM),
        )
        turn = torch.polar(torch.ones_like(angles), angles)

        def heads(name: str, number: int, *, turned: bool) -> torch.Tensor:
            x = (wide @ weights[f"layer.self_attn.{name}"].T).view(count, number, HEAD_DIM)
            x = x.transpose(0, 1)
            if turned:
                half = HEAD_DIM // 2
                x = torch.complex(x[..., :half], x[..., half:]) * turn
                x = torch.cat((x.real, x.imag), -1)
            return x.repeat_interleave(HEADS // number, 0)

        q, k = heads("q_proj", HEADS, turned=True), heads("k_proj", KV_HEADS, turned=True)
        v = heads("v_proj", KV_HEADS, turned=False)
        future = torch.ones(count, count).triu(1).bool()
        scores = (q @ k.mT * HEAD_DIM**-0.5).masked_fill(future, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = residual + mixed @ weights["layer.self_attn.o_proj"].T
        n = self._norm(x, "layer.post_attention_layernorm")
        gate = F.silu(n @ weights["layer.mlp.gate_proj"].T) * (n @ weights["layer.mlp.up_proj"].T)
        return x + gate @ weights["layer.mlp.down_proj"].T

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        if self._version == 3:
            x = self._norm(x, "norm")
        own = self._tensors.get("lm_head")
        logits: torch.Tensor = self._model.lm_head(x) if own is None else x @ own.T
        if "d2t" not in self._tensors:
            return logits
        whole = torch.full((self._model.config.vocab_size,), -torch.inf).double()
        whole[torch.arange(len(logits)) + self._tensors["d2t"]] = logits
        return whole


def record_proposals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Tokens of a row and the drafts behind them, of every call from now on."""
    seen: list[tuple[list[int], list[int]]] = []
    propose = Eagle.propose

    def recording(self: Eagle, drafting: Any) -> torch.Tensor:
        drafts = propose(self, drafting)
        padding = len(drafting.tokens) - 1
        rows = zip(drafting.slots, drafting.lengths, drafting.wanted, drafts, strict=True)
        for slot, length, wanted, chain in rows:
            if int(slot) != padding:
                seen.append((drafting.tokens[slot, :length].tolist(), chain[:wanted].tolist()))
        return drafts

    monkeypatch.setattr(Eagle, "propose", recording)
    return seen
