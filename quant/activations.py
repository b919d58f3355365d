"""Activations rounded to eight bits, as formats with quantized activations ask for."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ("FLOAT8_MAX", "INT8_MAX", "LEAST_SCALE", "as_float8", "float8_rounded", "int8_rounded")

FLOAT8_MAX = 448.0
"""The greatest float8_e4m3fn."""
INT8_MAX = 127.0
LEAST_SCALE = 1e-12
"""Of scales: a row of zeros stays zeros."""


def float8_rounded(
    x: torch.Tensor, block: int | None, input_scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, about values * scales.

    Args:
        x: [T, K].
        block: inputs that share a scale; None for all of a row.
        input_scale: of everything, in place of measured ones.

    Returns:
        float32 values [T, K] that float8_e4m3fn holds exactly, and float32 scales [T, 1], or
        [T, ceil(K / block)].
    """
    wide = x.float()
    if block is not None:
        rows, columns = wide.shape
        padded = F.pad(wide, (0, -columns % block)).view(rows, -1, block)
        scales = (padded.abs().amax(-1) / FLOAT8_MAX).clamp_(min=LEAST_SCALE)
        values = as_float8(padded / scales[..., None]).float().view(rows, -1)[:, :columns]
        return values, scales
    if input_scale is not None:
        scales = input_scale.expand(len(x), 1)
    else:
        scales = (wide.abs().amax(-1, keepdim=True) / FLOAT8_MAX).clamp_(min=LEAST_SCALE)
    return as_float8(wide / scales).float(), scales


def int8_rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K], about values * scales: whole float32 values within 127, float32 scales [T, 1]."""
    wide = x.float()
    scales = (wide.abs().amax(-1, keepdim=True) / INT8_MAX).clamp_(min=LEAST_SCALE)
    return (wide / scales).round_().clamp_(-INT8_MAX, INT8_MAX), scales


def as_float8(x: torch.Tensor) -> torch.Tensor:
    """The nearest float8_e4m3fn; x, which must be scaled, is clamped in place."""
    # Beyond the greatest value torch's conversion makes NaN.
    return x.clamp_(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)
