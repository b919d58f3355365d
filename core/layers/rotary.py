"""Rotary position embedding (Su et al., arXiv 2104.09864), rotating halves as Llama does."""

from __future__ import annotations

import torch

from ..contracts.attention import Rotation
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
        self._table = table.to(context.device, context.dtype)

    def at(self, positions: torch.Tensor) -> Rotation:
        """The rotation of a step whose tokens stand at these positions, int64 [T]."""
        return Rotation(self._table, positions)
