"""Products of few rows on a CPU, in one call with the norm, gate and addition around them."""

from __future__ import annotations

import torch

from ...core.contracts.platform import Gate, Norm
from .compiled import Call, compiled
from .rows import ACTIVATIONS, BITS, float_bits, misfit
from .shapes import LANES

__all__ = ("FewRows",)

_GRAIN = 2**15
"""Weights that are worth another thread."""


class FewRows:
    """See ``platform.Product``; rows do not depend on one another.

    Args:
        weight: [out, in], float32 or bfloat16, which is kept as it is.
        bias: [out] or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight.contiguous(), bias
        self._calls: dict[str | None, Call] = {}
        self._most = 1 + weight.numel() // _GRAIN

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[T, in] in the weight's dtype -> [T, out], or half as wide behind a gate."""
        if x.shape[1] != self._weight.shape[1] or x.dtype is not self._weight.dtype:
            raise misfit(x, self._weight)
        act = None if gate is None else gate.act
        call = self._calls.get(act) or self._call(act)
        if x.stride(1) != 1:
            x = x.contiguous()
        if add is not None:
            add = add.contiguous()
        rows, width = x.shape[0], self._weight.shape[0] // (1 if gate is None else 2)
        out = torch.empty(rows, width, dtype=x.dtype)
        threads = min(torch.get_num_threads(), self._most)
        piece = max(LANES, width // (8 * threads) // LANES * LANES)
        share = rows * x.shape[1] + 2 * piece
        room = torch.empty(threads * share)
        call(
            threads, x.data_ptr(), out.data_ptr(), rows, x.stride(0), piece,
            0 if norm is None else norm.weight.data_ptr(),
            0 if norm is None else float_bits(norm.eps),
            0 if add is None else add.data_ptr(),
            room.data_ptr(), 4 * share, threads,
        )  # fmt: skip
        return out

    def _call(self, act: str | None) -> Call:
        which = 0 if act is None else ACTIVATIONS[act] + 1
        bias = 0 if self._bias is None else self._bias.data_ptr()
        fixed = self._weight.data_ptr(), bias, *self._weight.shape
        kernel = compiled("product", BITS[self._weight.dtype], which)
        call = self._calls[act] = Call(kernel, 11, fixed)
        return call
