"""The model's part of a step: from a batch's tokens to hidden states."""

from __future__ import annotations

from typing import Any

import torch

from ..contracts.attention import AttentionBackend, AttentionBatch, Rotation
from ..contracts.model import Architecture, Attend, LastLayer, Tap

__all__ = ("attending", "forward", "needs_lengths")


def forward(
    model: Architecture,
    attention: AttentionBackend,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    batch: AttentionBatch,
    tap: Tap | None = None,
    ending: AttentionBatch | None = None,
) -> torch.Tensor:
    """[T, hidden size] for T tokens in the rows of a batch; their keys and values are cached.

    Args:
        model: with its weights.
        attention: of the model.
        token_ids: int64 [T].
        positions: int64 [T].
        batch: the rows.
        tap: shown the hidden states.
        ending: with M tokens that are ``chosen``: the result is theirs alone, [M, hidden size].
    """
    more: dict[str, Any] = {} if tap is None else {"tap": tap}
    if ending is not None and ending.chosen is not None:
        attend = attending(attention, attention.prepare(ending))
        more["last"] = LastLayer(ending.chosen.tokens, attend)
    attend = attending(attention, attention.prepare(batch))
    return model.forward(token_ids, positions, attend, **more)


def needs_lengths(attention: AttentionBackend, device: torch.device) -> bool:
    """Whether the host must know how long rows are; else bounds from above will do."""
    return device.type == "cpu" or "graphs" not in attention.capabilities.features


def attending(attention: AttentionBackend, prepared: Any) -> Attend:
    """The attention of a step that it has prepared."""

    def attend(
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        return attention.attend(layer, q, k, v, prepared, rotation)

    return attend
