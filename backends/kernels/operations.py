"""Norms, gates and products as a platform hands them to layers; see ``contracts.platform``."""

from __future__ import annotations

from functools import cache

import torch

from ...core.contracts.platform import Gate, Norm
from . import activation, conclusion
from .activation import gated
from .launch import compiling_only, launch
from .linear import linear
from .norm import rms_norm

__all__ = ("TritonGate", "TritonKernels", "TritonNorm", "TritonProduct", "compiling_only")


@cache
def _overlaps(device: torch.device) -> bool:
    """Whether kernels may be launched into the end of the one before: from Hopper on."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


class TritonKernels:
    """See ``platform.Kernels``."""

    activate = activation.activate
    activations = activation.ACTIVATIONS
    conclude = conclusion.conclude
    finish = conclusion.finish
    launch = staticmethod(launch)
    counters = staticmethod(conclusion.counters)

    def __init__(self, *, alike: bool = False) -> None:
        self.alike = alike
        available = torch.cuda.is_available()
        self.overlaps = available and _overlaps(torch.device("cuda", torch.cuda.current_device()))


class TritonNorm:
    """See ``platform.Norm``."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        self._pdl = _overlaps(weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps, pdl=self._pdl)


class TritonGate:
    """See ``platform.Gate``."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return gated(x, self.act, pdl=_overlaps(x.device))


class TritonProduct:
    """See ``platform.Product``; ``alike`` as in ``linear``."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, alike: bool = False
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._alike = alike
        self._pdl = _overlaps(weight.device)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return linear(
            x,
            self._weight,
            self._bias,
            norm=None if norm is None else (norm.weight, norm.eps),
            act=None if gate is None else gate.act,
            add=add,
            pdl=self._pdl,
            alike=self._alike,
        )
