"""What a checkpoint's quantized tensors mean, whichever tool wrote them.

Readers of formats make these values, products multiply with them; neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ("Float8Weight", "GroupedWeight", "Int8Weight", "Weight")


@dataclass(frozen=True)
class GroupedWeight:
    """Unsigned integers with a scale, and maybe a zero point, a group of inputs (AWQ, GPTQ).

    W[n, order[k]] = (codes[n, k] - zeros[n, k // group_size]) * scales[n, k // group_size]

    Attributes:
        codes: uint8 [N, K], each below 2^bits.
        scales: float16, bfloat16 or float32 [N, K / group_size].
        zeros: uint8 [N, K / group_size]; None where all are 2^(bits - 1).
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale; K where a whole row does.
        order: int64 [K], which input column k of the codes multiplies (activation order); None
            where it is k.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bits: int
    group_size: int
    order: torch.Tensor | None = None


@dataclass(frozen=True)
class Float8Weight:
    """8-bit floats with scales: W = values * scales, and activations in 8-bit floats too.

    Attributes:
        values: float8_e4m3fn [N, K].
        scales: float32 [N, 1], one an output (a tensor's one scale is repeated), or
            [ceil(N / block), ceil(K / block)].
        block: side of the square that shares a scale; None for one scale an output.
        input_scale: float32 [], of all activations; None where they are measured as they come,
            each token's (with blocks, each token's ``block`` inputs').
    """

    values: torch.Tensor
    scales: torch.Tensor
    block: int | None = None
    input_scale: torch.Tensor | None = None


@dataclass(frozen=True)
class Int8Weight:
    """Signed bytes with a scale an output, and activations in bytes scaled token by token.

    Attributes:
        values: int8 [N, K].
        scales: float32 [N, 1].
    """

    values: torch.Tensor
    scales: torch.Tensor


Weight = GroupedWeight | Float8Weight | Int8Weight
"""Of any format."""
