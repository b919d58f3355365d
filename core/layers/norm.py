"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..contracts.model import BuildContext
from .parameter import Parameter

__all__ = ("RMSNorm",)


class RMSNorm(Parameter):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, accumulated in float32.

    Args:
        name: of the module in the checkpoint.
        size: of the last dimension.
        eps: added to the mean square.
        context: dtype and device.
    """

    def __init__(self, name: str, size: int, eps: float, context: BuildContext) -> None:
        super().__init__(f"{name}.weight", (size,), dtype=context.dtype, device=context.device)
        self._shape = (size,)
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size] in the same dtype."""
        return F.rms_norm(x, self._shape, self.data, self._eps)
