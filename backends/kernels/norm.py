"""RMS norms (Zhang and Sennrich, arXiv 1910.07467), alone, after an addition, and of heads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("add_rms_norm", "head_rms_norms", "rms_norm")


@triton.jit
def _rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    eps,
    x_stride: tl.constexpr,
    residual_stride: tl.constexpr,
    size: tl.constexpr,
    ADD: tl.constexpr,
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
    if ADD:
        residual_ptr += row * residual_stride
        x += tl.load(residual_ptr + columns, mask=mask, other=0).to(tl.float32)
        # The norm is of what later layers will read.
        rounded = x.to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + columns, rounded, mask=mask)
        x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    out = x * scale * weight
    tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _head_rms_norms(
    q_ptr,
    k_ptr,
    q_weight_ptr,
    k_weight_ptr,
    eps,
    q_token_stride: tl.constexpr,
    q_head_stride: tl.constexpr,
    k_token_stride: tl.constexpr,
    k_head_stride: tl.constexpr,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    q_groups: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    if group < q_groups:
        heads = group * HEADS + tl.arange(0, HEADS)
        count = Q_HEADS
        base = q_ptr + token * q_token_stride
        stride = q_head_stride
        weight_ptr = q_weight_ptr
    else:
        heads = (group - q_groups) * HEADS + tl.arange(0, HEADS)
        count = K_HEADS
        base = k_ptr + token * k_token_stride
        stride = k_head_stride
        weight_ptr = k_weight_ptr
    columns = tl.arange(0, BLOCK)
    inside = columns < DIM
    mask = (heads < count)[:, None] & inside[None, :]
    at = base + heads[:, None] * stride + columns[None, :]
    weight = tl.load(weight_ptr + columns, mask=inside, other=0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    x = tl.load(at, mask=mask, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)
    out = x * scale[:, None] * weight[None, :]
    tl.store(at, out.to(q_ptr.dtype.element_ty), mask=mask)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, pdl: bool = False
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32.

    Args:
        x: [T, H], rows contiguous, or any contiguous [..., H].
        weight: [H].
        eps: added to the mean square.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on).

    Returns:
        A new contiguous tensor of x's shape and dtype.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    _launch(x, x, weight, eps, out, add=False, pdl=pdl)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, *, pdl: bool = False
) -> torch.Tensor:
    """The RMS norm of residual + x, which is written into residual.

    Args:
        x: [T, H], rows contiguous.
        residual: [T, H], rows contiguous; receives the sum, rounded to its dtype.
        weight: [H].
        eps: added to the mean square.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on).

    Returns:
        The norm of the rounded sum, [T, H] in x's dtype.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, residual, weight, eps, out, add=True, pdl=pdl)
    return out


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    *,
    add: bool,
    pdl: bool,
) -> None:
    rows, size = x.shape
    if not rows:
        return
    block = 1 << (size - 1).bit_length()
    launch(
        _rms_norm,
        (rows,),
        x,
        residual,
        weight,
        out,
        eps,
        x.stride(0),
        residual.stride(0),
        size,
        add,
        block,
        pdl,
        num_warps=min(max(block // 1024, 1), 16),
        launch_pdl=pdl,
    )


def head_rms_norms(
    q: torch.Tensor,
    k: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    *,
    pdl: bool = False,
) -> None:
    """An RMS norm on every query and key head, in place and in one launch.

    Args:
        q: [T, query heads, D]; tokens and heads may have any stride, a head is contiguous.
        k: [T, key heads, D], likewise.
        q_weight: [D].
        k_weight: [D].
        eps: added to the mean square.
        pdl: let the launch overlap the kernel before it (compute capability 9.0 on).
    """
    tokens, q_heads, dim = q.shape
    if not tokens:
        return
    k_heads = k.shape[1]
    block = 1 << (dim - 1).bit_length()
    # About 16 bytes a thread and access.
    heads = max(1024 // block, 1)
    grid = (tokens, -(-q_heads // heads) - (-k_heads // heads))
    launch(
        _head_rms_norms,
        grid,
        q,
        k,
        q_weight,
        k_weight,
        eps,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        q_heads,
        k_heads,
        dim,
        block,
        heads,
        pdl,
        launch_pdl=pdl,
    )
