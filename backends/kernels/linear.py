"""A linear layer's product with what stands around it, by whatever is fastest for its size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .activation import gated
from .norm import rms_norm
from .small_product import dot_product, vector_product
from .tuned import choose, choose_alike

__all__ = ("linear",)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: tuple[torch.Tensor, float] | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
    pdl: bool = False,
    alike: bool = False,
) -> torch.Tensor:
    """add + gate(norm(x) @ weight.T + bias); what is None is left out.

    Args:
        x: [M, K], rows contiguous.
        weight: [N, K] contiguous; behind a gate the gate's rows, then the other half's.
        bias: [N].
        norm: weight [K] and eps of an RMS norm of x.
        act: a key of ``activation.ACTIVATIONS``; the product's first half goes through it and
            gates the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.
        pdl: let launches overlap the kernel before them (compute capability 9.0 on); the weights
            must have been written long before.
        alike: every row by the same kernel, so that its bits do not depend on the others.

    Returns:
        [M, N] or [M, N / 2], in x's dtype.
    """
    count = x.shape[0]
    n, k = weight.shape
    if act is not None:
        n //= 2
    if alike:
        config = choose_alike(count, gated=act is not None, x=x)
    else:
        config = choose(count, n, k, gated=act is not None, x=x)
    if norm is not None:
        # Inside the product every program would add up the squares: measured slower.
        x = rms_norm(x, norm[0], norm[1], pdl=pdl)
    if config.form == "vector":
        return vector_product(x, weight, config, bias=bias, act=act, add=add, pdl=pdl)
    if config.form == "dot":
        return dot_product(x, weight, config, bias=bias, act=act, add=add, pdl=pdl)
    if add is not None and act is None and bias is None:
        # cuBLAS reads and adds while it writes, in float32.
        return torch.addmm(add, x, weight.t(), out=None if add is x else add)
    y = F.linear(x, weight, bias)
    if act is not None:
        y = gated(y, act, pdl=pdl)
    if add is None:
        return y
    return y.add_(add) if add is x else add.add_(y)
