"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..contracts.model import BuildContext
from .parameter import Parameter

__all__ = ("RMSNorm",)

_FEW_ELEMENTS = 2**14
"""Measured: up to about here a CPU spends more time starting operations than computing."""


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
        self._size = size
        self._eps = eps
        self._twice: torch.Tensor | None = None

    def finish(self) -> None:
        """Prepare the short way for few elements on a CPU."""
        if self.data.device.type == "cpu":
            self._twice = torch.cat((self.data, self.data))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size] in the same dtype."""
        if self._twice is None or x.numel() > _FEW_ELEMENTS:
            return F.rms_norm(x, (self._size,), self.data, self._eps)
        # The mean of [x, -x] is 0 and its variance is the mean square of x, so its layer norm is
        # the RMS norm, and torch has a single kernel for that one where RMS norm is eight.
        both = torch.cat((x, -x), -1)
        normed = torch.layer_norm(both, (2 * self._size,), self._twice, None, self._eps)
        return normed.narrow(-1, 0, self._size)
