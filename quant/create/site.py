"""Sites: the places in a decoder layer where inputs meet a matrix, watched while text runs through.

A layer is built with ``Watched`` as its quantization method, so that any architecture made of
``core.layers`` runs here by its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F

from ...core.contracts.capabilities import Capabilities
from ...core.contracts.platform import Platform
from ...core.contracts.quant import LinearSpec, LinearWeights, QuantMethod
from ...core.layers.parameter import DUMMY_SCALE, fill

__all__ = ("Gram", "Reached", "Site", "Watched")

Activation = Callable[[torch.Tensor], torch.Tensor]


class Reached(Exception):
    """The last site that is watched has seen its input: the rest of the layer need not run."""


class Gram:
    """Sums over a site's inputs.

    Args:
        size: K, of the inputs.
        device: of the sums.
        last: whether the layer need not run on behind this site.
    """

    def __init__(self, size: int, device: torch.device, *, last: bool) -> None:
        self._products = torch.zeros(size, size, device=device)
        self._sizes = torch.zeros(size, device=device)
        self._count = 0
        self._last = last

    def add(self, x: torch.Tensor) -> None:
        """Take inputs, float32 [T, K].

        Raises:
            Reached: when this is the last site that is watched.
        """
        self._products.addmm_(x.T, x)
        self._sizes.add_(x.abs().sum(0))
        self._count += len(x)
        if self._last:
            raise Reached

    @property
    def matrix(self) -> torch.Tensor:
        """Mean of x^T x, float32 [K, K]."""
        return self._products / self._count

    @property
    def activity(self) -> torch.Tensor:
        """Mean of |x|, float32 [K]."""
        return self._sizes / self._count


class Site(LinearWeights):
    """Layers of the checkpoint that multiply one input, in float32.

    Attributes:
        spec: names and shapes.
        weight: float32 [sum(out_features), in_features].
        bias: float32 [sum(out_features)] or None.
        gram: sums up the inputs, while there is one.
        activation: what the quantized layer will do to its inputs.
    """

    def __init__(self, spec: LinearSpec, device: torch.device) -> None:
        rows = sum(spec.out_features)
        self.spec = spec
        self.weight = torch.empty(rows, spec.in_features, device=device)
        self.bias = torch.empty(rows, device=device) if spec.bias else None
        self.gram: Gram | None = None
        self.activation: Activation | None = None

    def shards(self) -> dict[str, slice]:
        """Rows of each of the checkpoint's layers."""
        rows, start = {}, 0
        for name, width in zip(self.spec.shards, self.spec.out_features, strict=True):
            rows[name] = slice(start, start + width)
            start += width
        return rows

    def names(self) -> set[str]:
        return set(self._targets())

    def load(self, name: str, tensor: torch.Tensor) -> None:
        fill(self._targets()[name], name, tensor)

    def make_up(self, generator: torch.Generator) -> None:
        for target in self._targets().values():
            target.normal_(0.0, DUMMY_SCALE, generator=generator)

    def finish(self) -> None:
        """Nothing to repack: weights change while they are quantized."""

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        if self.gram is not None:
            self.gram.add(x)
        if self.activation is not None:
            x = self.activation(x)
        return F.linear(x, self.weight, self.bias)

    def _targets(self) -> dict[str, torch.Tensor]:
        targets = {}
        for name, rows in self.shards().items():
            targets[f"{name}.weight"] = self.weight[rows]
            if self.bias is not None:
                targets[f"{name}.bias"] = self.bias[rows]
        return targets


class Watched(QuantMethod):
    """Makes sites, and remembers them in the order in which a layer makes them."""

    capabilities = Capabilities()

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.sites: list[Site] = []

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        return cls(platform)

    def linear(self, spec: LinearSpec, device: torch.device) -> LinearWeights:
        self.sites.append(Site(spec, device))
        return self.sites[-1]

    def covers(self, name: str) -> bool:
        return True
