"""What the kernels compute, in float64 by torch, and how far a result may be from it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ("assert_close", "gated", "poison", "product", "random", "rms_norm")

_STEP = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
_ACTS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def random(*shape: int, dtype: torch.dtype, device: str = "cpu", scale: float = 1.0):
    """Normal values, with a few large ones among them."""
    x = torch.randn(*shape, device=device) * scale
    x[torch.rand(shape, device=device) < 0.01] *= 8
    return x.to(dtype)


def poison(x: torch.Tensor) -> torch.Tensor:
    """Fill with NaN, or the greatest integer: what a kernel forgets to write shows."""
    if x.dtype == torch.bool:
        return x.fill_(True)
    return x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Float64."""
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.double()


def gated(x: torch.Tensor, act: str) -> torch.Tensor:
    """Float64."""
    gate, up = x.double().chunk(2, -1)
    return _ACTS[act](gate) * up


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, float] | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """add + gate(norm(x) @ weight.T + bias), float64."""
    y = (x.double() if norm is None else rms_norm(x, *norm)) @ weight.double().T
    if bias is not None:
        y = y + bias.double()
    if act is not None:
        y = gated(y, act)
    return y if add is None else y + add.double()


def assert_close(
    got: torch.Tensor,
    expected: torch.Tensor,
    *,
    steps: float = 1.0,
    accumulated: float = 1e-5,
    size: torch.Tensor | None = None,
) -> None:
    """Every element within ``steps`` rounding steps of its dtype, and an accumulation's error.

    Args:
        got: by the kernel.
        expected: float64.
        steps: of the dtype, relative to each element.
        accumulated: absolute error, relative to the root mean square of all.
        size: of what was rounded on the way to each element; None for the elements' own.
    """
    assert got.shape == expected.shape
    scale = expected.square().mean().sqrt()
    size = expected.abs() if size is None else size
    bound = steps * _STEP[got.dtype] * size + accumulated * scale
    error = (got.double() - expected).abs()
    worst = (error / bound).nan_to_num(nan=float("inf")).max()
    assert worst <= 1, f"{worst:.3g} times the allowed error"
