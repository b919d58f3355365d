"""Bytes: 8-bit floats and 8-bit integers, whose scales follow from the greatest weight alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..activations import (
    FLOAT8_MAX,
    INT8_MAX,
    LEAST_SCALE,
    as_float8,
    float8_rounded,
    int8_rounded,
)
from ..weights import Float8Weight, Int8Weight

__all__ = ("float8_blocks", "float8_input", "float8_rows", "int8_input", "int8_rows")


def float8_rows(weight: torch.Tensor, stored: torch.dtype) -> Float8Weight:
    """One scale an output.

    Args:
        weight: float32 [N, K].
        stored: dtype in which scales will be stored.
    """
    scales = _scales(weight.abs().amax(1, keepdim=True) / FLOAT8_MAX, stored)
    return Float8Weight(values=as_float8(weight / scales), scales=scales)


def float8_blocks(weight: torch.Tensor, block: int) -> Float8Weight:
    """One scale a square of weights.

    Args:
        weight: float32 [N, K].
        block: side of the square.
    """
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % block, 0, -rows % block))
    squares = padded.view(len(padded) // block, block, -1, block)
    scales = (squares.abs().amax((1, 3)) / FLOAT8_MAX).clamp_(min=LEAST_SCALE)
    values = as_float8(squares / scales[:, None, :, None])
    values = values.flatten(2).flatten(0, 1)[:rows, :columns].contiguous()
    return Float8Weight(values=values, scales=scales, block=block)


def int8_rows(weight: torch.Tensor, stored: torch.dtype) -> Int8Weight:
    """One scale an output; see ``float8_rows``."""
    scales = _scales(weight.abs().amax(1, keepdim=True) / INT8_MAX, stored)
    values = (weight / scales).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return Int8Weight(values=values, scales=scales)


def float8_input(x: torch.Tensor, group: int | None = None) -> torch.Tensor:
    """What 8-bit floats leave of activations, scaled token by token.

    Args:
        x: float32 [T, K].
        group: inputs that share a scale; None for all.
    """
    values, scales = float8_rounded(x, group, None)
    if group is not None:
        scales = scales.repeat_interleave(group, 1)[:, : x.shape[1]]
    return values.mul_(scales)


def int8_input(x: torch.Tensor) -> torch.Tensor:
    """What bytes leave of activations, scaled token by token."""
    values, scales = int8_rounded(x)
    return values.mul_(scales)


def _scales(exact: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    return exact.to(stored).float().clamp_(min=LEAST_SCALE)
