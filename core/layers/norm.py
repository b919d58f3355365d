"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..contracts.model import BuildContext
from ..contracts.platform import Norm
from .parameter import Parameter

__all__ = ("RMSNorm", "TorchNorm")


class RMSNorm(Parameter):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, accumulated in float32.

    Args:
        name: of the module in the checkpoint.
        size: of the last dimension.
        eps: added to the mean square.
        context: dtype, device and platform.
    """

    def __init__(self, name: str, size: int, eps: float, context: BuildContext) -> None:
        super().__init__(f"{name}.weight", (size,), dtype=context.dtype, device=context.device)
        self.eps = eps
        self._platform = context.platform
        self._norm: Norm | None = None

    @property
    def weight(self) -> torch.Tensor:
        """[size]."""
        return self.data

    def finish(self) -> None:
        """Hand the weight to the platform's norm."""
        self._norm = self._platform.norm(self.data, self.eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size] in the same dtype."""
        if self._norm is None:
            raise RuntimeError("a norm was asked for before its weight was loaded")
        return self._norm(x)


class TorchNorm:
    """The norm by torch's own operator; see ``platform.Norm``."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
