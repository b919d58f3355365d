"""Gated activations (Shazeer, arXiv 2002.05202)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("ACTIVATIONS", "activate", "gated")

ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""``hidden_act`` of a Hugging Face config -> ACT of the kernels."""

_BLOCK = 1024


@triton.jit
def activate(x, ACT: tl.constexpr):
    """The activation in float32, by exponentials that overflow to the right limit."""
    if ACT == "silu":
        y = x / (1.0 + tl.exp(-x))
    elif ACT == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        # (1 + tanh(u)) / 2 is the sigmoid of 2u.
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        y = x / (1.0 + tl.exp(-2.0 * u))
    return y


@triton.jit
def _gated(
    x_ptr,
    out_ptr,
    x_stride: tl.constexpr,
    width: tl.constexpr,
    ACT: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    gate = tl.load(x_ptr + row * x_stride + columns, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + width + columns, mask=mask).to(tl.float32)
    out = activate(gate, ACT) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


def gated(x: torch.Tensor, act: str, *, pdl: bool = False) -> torch.Tensor:
    """act(first half) * second half of the last dimension, computed in float32.

    Args:
        x: [T, 2 * I], rows contiguous.
        act: a key of ACTIVATIONS.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on).

    Returns:
        [T, I] in x's dtype.
    """
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, -(-width // _BLOCK))
        constants = x.stride(0), width, ACTIVATIONS[act], _BLOCK, pdl
        launch(_gated, grid, x, out, *constants, launch_pdl=pdl)
    return out
