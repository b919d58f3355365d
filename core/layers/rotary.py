"""Rotary position embedding (Su et al., arXiv 2104.09864), rotating halves as Llama does."""

from __future__ import annotations

import torch

from ..contracts.model import BuildContext
from .rope_scaling import RopeSpec

__all__ = ("Rotary",)


class Rotary:
    """Cosines and sines of every position, made once.

    Args:
        spec: frequencies and their scaling.
        context: dtype, device and the positions that may occur.
    """

    def __init__(self, spec: RopeSpec, context: BuildContext) -> None:
        positions = torch.arange(context.max_model_len, dtype=torch.float32)
        angles = torch.outer(positions, spec.frequencies(context.max_model_len))
        cos, sin = angles.cos() * spec.attention_factor, angles.sin() * spec.attention_factor
        # [x1, x2] becomes [x1 cos - x2 sin, x2 cos + x1 sin]: with the sign in the table that is
        # x * cos + swapped(x) * sin, three operations whatever the number of heads.
        table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1)
        self._table = table.unsqueeze(2).to(context.device, context.dtype)
        self._half = spec.head_dim // 2

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines: int64 [T] -> two of [T, 1, head_dim]."""
        cos, sin = self._table.index_select(0, positions).unbind(1)
        return cos, sin

    def rotate(self, x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Rotate [T, heads, head_dim] in place by what ``at`` gave."""
        cos, sin = angles
        swapped = x.roll(self._half, -1)
        x.mul_(cos).addcmul_(swapped, sin)
