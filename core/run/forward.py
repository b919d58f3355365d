"""The model's part of a step: from a batch's tokens to hidden states."""

from __future__ import annotations

import torch

from ..contracts.attention import AttentionBackend, AttentionBatch, Rotation
from ..contracts.model import Architecture

__all__ = ("forward",)


def forward(
    model: Architecture,
    attention: AttentionBackend,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    batch: AttentionBatch,
) -> torch.Tensor:
    """[T, hidden size] for T tokens in the rows of a batch; their keys and values are cached."""
    prepared = attention.prepare(batch)

    def attend(
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        return attention.attend(layer, q, k, v, prepared, rotation)

    return model.forward(token_ids, positions, attend)
