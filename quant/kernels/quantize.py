"""Activations to 8 bits, token by token, with the norm or the gate before them in the same pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...core.contracts.platform import Gate, Kernels, Norm

__all__ = ("gather", "quantize")

_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_PIECE = 1024
"""Columns that a program puts into another order: a row of one token is many processors' work."""
_FEW_ROWS = 8
"""Rows up to which columns are fetched one by one, by several programs a row. More rows, and what a
norm reads whole, are read as they lie and change places within a processor: a fetch of 32 columns
from anywhere takes its cache as many turns, and its shared memory three or four."""
_LEAST = 1e-10
"""Of a scale, so that a row of zeros divides by no zero."""


@triton.jit
def _scale(y, AXIS: tl.constexpr, LARGEST: tl.constexpr, LEAST: tl.constexpr):
    """The largest of absolute values over LARGEST; NaN or infinite where one of them is."""
    # As integers NaN is the largest of all, which the larger of two floats never is.
    bits = tl.max(tl.abs(y).to(tl.int32, bitcast=True), AXIS)
    scale = bits.to(tl.float32, bitcast=True) / LARGEST
    return tl.where(scale < LEAST, LEAST, scale)


@triton.jit
def _quantize(
    x_ptr, weight_ptr, given_ptr, out_ptr, scale_ptr, eps, x_stride: tl.constexpr,
    K: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, LARGEST: tl.constexpr,
    LEAST: tl.constexpr, NORM: tl.constexpr, ACTIVATE: tl.constexpr, ACT: tl.constexpr,
    GIVEN: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: its values through the norm or gate, over their largest or a given scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    mask = columns < K
    if NORM:
        weight = tl.load(weight_ptr + columns, mask=mask, other=0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    y = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0).to(tl.float32)
    if NORM:
        y = y * tl.rsqrt(tl.sum(y * y, 0) / K + eps) * weight
    if ACT is not None:
        up = tl.load(x_ptr + row * x_stride + K + columns, mask=mask, other=0).to(tl.float32)
        y = ACTIVATE(y, ACT) * up
    # As it would have been stored in between.
    y = y.to(x_ptr.dtype.element_ty).to(tl.float32)
    if BLOCK:
        BLOCKS: tl.constexpr = WIDTH // BLOCK
        y = tl.reshape(y, (BLOCKS, BLOCK))
        scale = _scale(y, 1, LARGEST, LEAST)
        y = tl.reshape(y * (1 / scale)[:, None], (WIDTH,))
        count = tl.cdiv(K, BLOCK)
        blocks = tl.arange(0, BLOCKS)
        tl.store(scale_ptr + row * count + blocks, scale, mask=blocks < count)
    else:
        scale = _scale(y, 0, LARGEST, LEAST)
        if GIVEN:
            # Of a row that holds no numbers it is none either.
            scale = tl.load(given_ptr) + scale * 0
        y *= 1 / scale
        tl.store(scale_ptr + row, scale)
    if GIVEN:
        y = tl.minimum(tl.maximum(y, -LARGEST), LARGEST)
    if out_ptr.dtype.element_ty == tl.int8:
        # 1.5 * 2^23 rounds to the nearest, and to even between two.
        y = (y + 12582912.0) - 12582912.0
    tl.store(out_ptr + row * K + columns, y.to(out_ptr.dtype.element_ty), mask=mask)


def quantize(
    x: torch.Tensor,
    dtype: torch.dtype,
    kernels: Kernels,
    *,
    norm: Norm | None = None,
    gate: Gate | None = None,
    block: int | None = None,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gate(norm(x)) as 8-bit values and the scales they are to be multiplied with.

    Args:
        x: [T, K], or [T, 2 K] before a gate; rows contiguous, bfloat16 or float16.
        dtype: int8 or float8_e4m3fn (from compute capability 8.9 on).
        kernels: the platform's.
        norm: applied first; not together with a gate.
        gate: applied first.
        block: columns that share a scale, a power of two; None where a row does.
        scale: float32 [], of all rows; None where they are measured. Not with blocks.

    Returns:
        Values [T, K] and float32 scales, [T, 1] or with blocks [T, ceil(K / block)].
    """
    rows, k = x.shape
    if gate is not None:
        k //= 2
    out = torch.empty((rows, k), dtype=dtype, device=x.device)
    count = 1 if block is None else -(-k // block)
    scales = torch.empty((rows, count), dtype=torch.float32, device=x.device)
    if not rows:
        return out, scales
    width = max(1 << (k - 1).bit_length(), block or 1)
    kernels.launch(
        _quantize,
        (rows,),
        x,
        None if norm is None else norm.weight,
        scale,
        out,
        scales,
        0.0 if norm is None else norm.eps,
        x.stride(0),
        k,
        width,
        block or 0,
        _LARGEST[dtype],
        _LEAST,
        norm is not None,
        kernels.activate,
        None if gate is None else kernels.activations[gate.act],
        scale is not None,
        kernels.overlaps,
        num_warps=min(max(width // 1024, 1), 16),
        launch_pdl=kernels.overlaps,
    )
    return out, scales


@triton.jit
def _gather(
    x_ptr, weight_ptr, order_ptr, out_ptr, eps, x_stride: tl.constexpr, K: tl.constexpr,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row, read as it lies, or WIDTH of its columns, fetched from anywhere."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    mask = columns < K
    order = tl.load(order_ptr + columns, mask=mask, other=0)
    if NORM:
        weight = tl.load(weight_ptr + columns, mask=mask, other=0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    y = tl.load(x_ptr + row * x_stride + (columns if WHOLE else order), mask=mask, other=0)
    if NORM:
        y = y.to(tl.float32)
        y = (y * tl.rsqrt(tl.sum(y * y, 0) / K + eps) * weight).to(out_ptr.dtype.element_ty)
    if WHOLE:
        y = tl.gather(y, order, 0)
    tl.store(out_ptr + row * K + columns, y, mask=mask)


def gather(
    x: torch.Tensor, order: torch.Tensor, kernels: Kernels, *, norm: Norm | None = None
) -> torch.Tensor:
    """norm(x)[:, order] in one pass.

    Args:
        x: [T, K], rows contiguous.
        order: int32 [K], a permutation.
        kernels: the platform's.
        norm: applied first.

    Returns:
        [T, K] in x's dtype.
    """
    rows, k = x.shape
    out = torch.empty((rows, k), dtype=x.dtype, device=x.device)
    if rows:
        width = 1 << (k - 1).bit_length()
        whole = norm is not None or rows > _FEW_ROWS
        if not whole:
            width = min(width, _PIECE)
        kernels.launch(
            _gather,
            (rows, -(-k // width)),
            x,
            None if norm is None else norm.weight,
            order,
            out,
            0.0 if norm is None else norm.eps,
            x.stride(0),
            k,
            width,
            whole,
            norm is not None,
            kernels.overlaps,
            num_warps=min(max(width // 512, 1), 16),
            launch_pdl=kernels.overlaps,
        )
    return out
