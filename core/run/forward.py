"""The model's part of a step: from a batch's tokens to hidden states."""

from __future__ import annotations

from typing import Any

import torch

from ..contracts.attention import AttentionBackend, AttentionBatch, Rotation
from ..contracts.model import Architecture, Attend, Tap

__all__ = ("attending", "forward")


def forward(
    model: Architecture,
    attention: AttentionBackend,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    batch: AttentionBatch,
    tap: Tap | None = None,
) -> torch.Tensor:
    """[T, hidden size] for T tokens in the rows of a batch; their keys and values are cached."""
    attend = attending(attention, attention.prepare(batch))
    if tap is None:
        return model.forward(token_ids, positions, attend)
    return model.forward(token_ids, positions, attend, tap)


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
