"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("rms_norm",)


@triton.jit
def _rms_norm(
    x_ptr,
    weight_ptr,
    out_ptr,
    eps,
    x_stride: tl.constexpr,
    size: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    weight = tl.load(weight_ptr + columns, mask=mask, other=0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    out = x * scale * weight
    tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, pdl: bool = False
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32.

    Args:
        x: [T, H], rows contiguous, or any [..., H].
        weight: [H].
        eps: added to the mean square.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on).

    Returns:
        A new contiguous tensor of x's shape and dtype.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    rows, size = x.shape
    if rows:
        block = 1 << (size - 1).bit_length()
        warps = min(max(block // 1024, 1), 16)
        constants = x.stride(0), size, block, pdl
        launch(_rms_norm, (rows,), x, weight, out, eps, *constants, num_warps=warps, launch_pdl=pdl)
    return out
