"""Linear layers, stored and multiplied by the quantization method."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..contracts.model import BuildContext
from ..contracts.platform import Gate, GatedProduct, Norm, Product
from ..contracts.quant import LinearSpec, LinearWeights

__all__ = ("ComposedProduct", "ProductLinear", "make_linear")


class ComposedProduct:
    """A product that does what stands around it one after another; see ``platform.Product``.

    Args:
        multiply: x [T, in] -> [T, out].
    """

    def __init__(self, multiply: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._multiply = multiply

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = self._multiply(x if norm is None else norm(x))
        if gate is not None:
            y = gate(y)
        return y if add is None else add.add_(y)


class ProductLinear(LinearWeights):
    """A holder that multiplies by a product, which its ``finish`` makes."""

    _product: Product | None = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.fused(x)

    def takes_gate(self, tokens: int) -> bool:
        return isinstance(self._product, GatedProduct) and self._product.takes_gate(tokens)

    def behind_gate(
        self, x: torch.Tensor, gate: Gate, *, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        if isinstance(self._product, GatedProduct):
            return self._product.behind_gate(x, gate, add=add)
        return super().behind_gate(x, gate, add=add)

    def fused(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self._product is None:
            raise RuntimeError("a product was asked for before the weights were loaded")
        return self._product(x, norm=norm, gate=gate, add=add)


def make_linear(
    shards: tuple[str, ...],
    out_features: tuple[int, ...],
    in_features: int,
    *,
    bias: bool,
    context: BuildContext,
) -> LinearWeights:
    """A holder for layers of the checkpoint that multiply the same input, side by side.

    Args:
        shards: the checkpoint's module names, in output order.
        out_features: of each shard.
        in_features: of all.
        bias: whether they have one.
        context: what to build with.
    """
    spec = LinearSpec(
        shards=shards,
        out_features=out_features,
        in_features=in_features,
        bias=bias,
        dtype=str(context.dtype).removeprefix("torch."),
    )
    return context.quant.linear(spec, context.device)
