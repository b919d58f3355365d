"""Architectures: every tensor has one owner, every layer attends once, and rows do not mix.

What is computed is for the architecture's own tests, against another implementation of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ..contracts.attention import Rotation
from ..contracts.model import Architecture, BuildContext, LastLayer
from ..errors import CheckpointError
from ..registry import Registry
from .report import Unchecked, require

__all__ = ("SMALL", "check_architecture", "check_model")

# A config.json with the keys that decoders share.
SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
}


def check_model(architecture: type[Architecture]) -> None:
    """Check an architecture that can be built from ``SMALL``, with heads tied and not.

    Raises:
        ConformanceError: naming the first broken promise.
        Unchecked: when it needs other keys; its own tests call ``check_architecture`` then.
    """
    registry = Registry()
    platform = registry.make("platform", "cpu")
    context = BuildContext(
        dtype=torch.float32,
        device=torch.device("cpu"),
        quant=registry.get("quant", "none").from_checkpoint(None, platform),
        platform=platform,
        max_model_len=32,
    )
    for tied in (False, True):
        config = SMALL | {"tie_word_embeddings": tied}
        try:
            architecture.build(config, context)
        except CheckpointError as error:
            raise Unchecked(f"it needs a config.json of its own ({error})") from error
        check_architecture(architecture, config, context, SMALL["vocab_size"])


def check_architecture(
    architecture: type[Architecture],
    config: dict[str, Any],
    context: BuildContext,
    vocab_size: int,
) -> None:
    """Build it, make weights up, and run it with attention that only records.

    Args:
        architecture: under test.
        config: a small config.json of it.
        context: to build with.
        vocab_size: that the config asks for.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    model = architecture.build(config, context)
    names = Counter(
        name for holder in model.holders() for name in holder.names() | holder.optional()
    )
    shared = [name for name, count in names.items() if count > 1]
    require(not shared, f"{shared[:1]} belongs to several holders")
    ignored = [name for name in names if model.ignores(name)]
    require(not ignored, f"{ignored[:1]} is both taken and ignored")
    generator = torch.Generator(device=context.device).manual_seed(0)
    for holder in model.holders():
        holder.make_up(generator)
        holder.finish()
    for tokens in (1, 9):
        _check_forward(model, context, vocab_size, tokens)
    _check_rows(model, context, vocab_size)
    if "hidden_states" in model.capabilities.features:
        _check_tap(model, context, vocab_size)
    if "chosen_tokens" in model.capabilities.features:
        _check_last(model, context, vocab_size)


class _Recorder:
    """Attention that looks at nothing but its own query, and keeps the order of layers."""

    def __init__(self, model: Architecture, tokens: int) -> None:
        self._specs = model.attention_layers()
        self._tokens = tokens
        self.seen: list[int] = []

    def __call__(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec = self._specs[layer]
        shapes = [tuple(tensor.shape) for tensor in (q, k, v)]
        kv = (self._tokens, spec.num_kv_heads, spec.head_dim)
        right = shapes == [(self._tokens, spec.num_heads, spec.head_dim), kv, kv]
        require(right, f"layer {layer} attends with shapes {shapes}")
        self.seen.append(layer)
        if rotation is not None:
            rotation.apply(q, k)
        return q.reshape(self._tokens, -1).contiguous()


def _check_forward(
    model: Architecture, context: BuildContext, vocab_size: int, tokens: int
) -> None:
    attend = _Recorder(model, tokens)
    ids = torch.arange(tokens, device=context.device) % vocab_size
    hidden = model.forward(ids, torch.arange(tokens, device=context.device), attend)
    layers = list(range(len(model.attention_layers())))
    require(attend.seen == layers, f"layers attended in the order {attend.seen}")
    right = hidden.dtype == context.dtype and hidden.shape[0] == tokens
    require(right, f"hidden states are {hidden.dtype} {list(hidden.shape)}")
    logits = model.logits(hidden[-1:])
    known = logits.dtype in (context.dtype, torch.float32)
    right = known and logits.shape == (1, vocab_size)
    require(right, f"logits are {logits.dtype} {list(logits.shape)}")
    require(bool(logits.isfinite().all()), "logits of made-up weights are not finite")


def _check_rows(model: Architecture, context: BuildContext, vocab_size: int) -> None:
    """A token's hidden state depends on its id, its position and its attention alone."""
    ids = torch.tensor([3, 1, 2, 3, 0], device=context.device) % vocab_size
    positions = torch.tensor([5, 0, 1, 2, 20], device=context.device)
    together = model.forward(ids, positions, _Recorder(model, 5))
    order = torch.tensor([4, 2, 0, 1, 3], device=context.device)
    mixed = model.forward(ids[order], positions[order], _Recorder(model, 5))
    tolerance = 1e-4 if context.dtype is torch.float32 else 5e-2
    error = float((mixed - together[order]).abs().max())
    require(error <= tolerance, f"hidden states depend on the other rows of a step, by {error:.2g}")


def _check_tap(model: Architecture, context: BuildContext, vocab_size: int) -> None:
    """A tap sees what each layer reads, from the embedding on, and changes nothing."""
    ids = torch.arange(4, device=context.device) % vocab_size
    plain = model.forward(ids, ids, _Recorder(model, 4))
    seen: list[tuple[int, torch.Tensor]] = []
    tapped = model.forward(
        ids, ids, _Recorder(model, 4), lambda layer, x: seen.append((layer, x.clone()))
    )
    require(bool((tapped == plain).all()), "a tap changes the hidden states")
    layers = [*range(len(model.attention_layers()) + 1)]
    found = [layer for layer, _ in seen]
    require(found == layers, f"a tap is shown the layers {found}; {layers} are due")
    shapes = {(tuple(x.shape), x.dtype) for _, x in seen}
    right = shapes == {(tuple(plain.shape), plain.dtype)}
    require(right, f"a tap is shown {shapes}; hidden states are {list(plain.shape)}")
    require(bool((model.embed(ids) == seen[0][1]).all()), "embed is not what the first layer reads")


def _check_last(model: Architecture, context: BuildContext, vocab_size: int) -> None:
    """Chosen tokens get what they get among all."""
    ids = torch.arange(7, device=context.device) % vocab_size
    tokens = torch.tensor([1, 4, 6], device=context.device)
    everything = _Recorder(model, 7)
    last = LastLayer(tokens, lambda *given: everything(*given)[tokens])
    whole = model.forward(ids, ids, _Recorder(model, 7))
    found = model.forward(ids, ids, everything, last=last)
    layers = list(range(len(model.attention_layers())))
    require(everything.seen == layers, f"layers attended in the order {everything.seen}")
    shape = (len(tokens), whole.shape[1])
    require(tuple(found.shape) == shape, f"chosen tokens give {list(found.shape)}")
    tolerance = 1e-4 if context.dtype is torch.float32 else 5e-2
    error = float((found - whole[tokens]).abs().max())
    require(error <= tolerance, f"chosen tokens differ from those among all by {error:.2g}")
