"""Bytes: 8-bit floats and 8-bit integers, whose scales follow from the greatest weight alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..weights import Float8Weight, Int8Weight

__all__ = ("float8_blocks", "float8_input", "float8_rows", "int8_input", "int8_rows")

FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MOST = 448.0
_INT8_MOST = 127.0
_LEAST = 1e-12


def float8_rows(weight: torch.Tensor, stored: torch.dtype) -> Float8Weight:
    """One scale an output.

    Args:
        weight: float32 [N, K].
        stored: dtype in which scales will be stored.
    """
    scales = _scales(weight.abs().amax(1, keepdim=True) / _FLOAT8_MOST, stored)
    return Float8Weight(values=_float8(weight / scales), scales=scales)


def float8_blocks(weight: torch.Tensor, block: int) -> Float8Weight:
    """One scale a square of weights.

    Args:
        weight: float32 [N, K].
        block: side of the square.
    """
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % block, 0, -rows % block))
    squares = padded.unflatten(1, (-1, block)).unflatten(0, (-1, block))
    scales = (squares.abs().amax((1, 3)) / _FLOAT8_MOST).clamp_(min=_LEAST)
    values = _float8(squares / scales[:, None, :, None])
    values = values.flatten(2).flatten(0, 1)[:rows, :columns].contiguous()
    return Float8Weight(values=values, scales=scales, block=block)


def int8_rows(weight: torch.Tensor, stored: torch.dtype) -> Int8Weight:
    """One scale an output; see ``float8_rows``."""
    scales = _scales(weight.abs().amax(1, keepdim=True) / _INT8_MOST, stored)
    values = (weight / scales).round_().clamp_(-128, 127).to(torch.int8)
    return Int8Weight(values=values, scales=scales)


def float8_input(x: torch.Tensor, group: int | None = None) -> torch.Tensor:
    """What 8-bit floats leave of activations, scaled token by token.

    Args:
        x: float32 [T, K].
        group: inputs that share a scale; None for all.
    """
    size = group or x.shape[1]
    padded = F.pad(x, (0, -x.shape[1] % size)).unflatten(1, (-1, size))
    scales = (padded.abs().amax(-1, keepdim=True) / _FLOAT8_MOST).clamp_(min=_LEAST)
    return (_float8(padded / scales).float() * scales).flatten(1)[:, : x.shape[1]]


def int8_input(x: torch.Tensor) -> torch.Tensor:
    """What bytes leave of activations, scaled token by token."""
    scales = (x.abs().amax(1, keepdim=True) / _INT8_MOST).clamp_(min=_LEAST)
    return (x / scales).round_().clamp_(-128, 127).mul_(scales)


def _scales(exact: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    return exact.to(stored).float().clamp_(min=_LEAST)


def _float8(x: torch.Tensor) -> torch.Tensor:
    return x.clamp_(-_FLOAT8_MOST, _FLOAT8_MOST).to(FLOAT8)
