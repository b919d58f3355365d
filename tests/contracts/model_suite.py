"""What every architecture must do, whatever it computes; parity with another is for its tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from quire.core.contracts.attention import Rotation
from quire.core.contracts.model import Architecture, BuildContext

__all__ = ("check_architecture",)


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
        AssertionError: where something does not hold.
    """
    model = architecture.build(config, context)
    names = Counter(name for holder in model.holders() for name in holder.names())
    shared = [name for name, count in names.items() if count > 1]
    if shared:
        raise AssertionError(f"{shared[0]} belongs to several holders")
    ignored = [name for name in names if model.ignores(name)]
    if ignored:
        raise AssertionError(f"{ignored[0]} is both taken and ignored")
    generator = torch.Generator(device=context.device).manual_seed(0)
    for holder in model.holders():
        holder.make_up(generator)
        holder.finish()
    specs = model.attention_layers()
    seen: list[int] = []

    def attend(
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec = specs[layer]
        shapes = [tuple(tensor.shape) for tensor in (q, k, v)]
        kv = (tokens, spec.num_kv_heads, spec.head_dim)
        if shapes != [(tokens, spec.num_heads, spec.head_dim), kv, kv]:
            raise AssertionError(f"layer {layer} attends with shapes {shapes}")
        seen.append(layer)
        return q.reshape(tokens, -1).contiguous()

    for tokens in (1, 9):
        seen.clear()
        ids = torch.arange(tokens, device=context.device) % vocab_size
        hidden = model.forward(ids, torch.arange(tokens, device=context.device), attend)
        if seen != list(range(len(specs))):
            raise AssertionError(f"layers attended in the order {seen}")
        if hidden.dtype != context.dtype or hidden.shape[0] != tokens:
            raise AssertionError(f"hidden states are {hidden.dtype} {list(hidden.shape)}")
        logits = model.logits(hidden[-1:])
        if logits.dtype not in (context.dtype, torch.float32) or logits.shape != (1, vocab_size):
            raise AssertionError(f"logits are {logits.dtype} {list(logits.shape)}")
        if not bool(logits.isfinite().all()):
            raise AssertionError("logits of made-up weights are not finite")
