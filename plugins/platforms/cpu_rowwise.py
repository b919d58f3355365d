"""Norms and gates on a CPU whose rows do not depend on their number."""

from __future__ import annotations

import torch

from ...core.layers.mlp import TorchGate
from ...core.layers.norm import TorchNorm

__all__ = ("OneOperationNorm", "RowwiseGate")

_GRAIN = 2**15
"""Elements from which on torch divides an elementwise operation among threads."""
_VECTOR = 64
"""Elements that every instruction set's loop takes at once, or a multiple."""


class OneOperationNorm(TorchNorm):
    """A layer norm in place of the eight operations of torch's RMS norm.

    The mean of [x, -x] is 0 and its variance is the mean square of x, so its layer norm, for which
    torch has a single kernel, is the RMS norm. From about 32 rows on the eight are faster, but they
    round otherwise, and a row must not change with the number of its neighbours.

    Attributes:
        twice: [2, size], the weight for both halves.
        signs: [2, 1], what makes x the halves.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__(weight, eps)
        self.twice = weight.expand(2, -1).contiguous()
        self.signs = weight.new_tensor([[1], [-1]])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        both = x.unsqueeze(-2) * self.signs
        normed = torch.layer_norm(both, self.twice.shape, self.twice, None, self.eps)
        return normed.select(-2, 0)


class RowwiseGate(TorchGate):
    """The gate, with every row computed alike whatever their number.

    Torch's loops take the last elements of a thread's share one by one, and those round otherwise
    than whole vectors. Shares that do not end with a vector are avoided by taking so few rows that
    one thread computes them.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, width = len(x), x.shape[1] // 2
        if self.at_once(rows, width):
            return super().__call__(x)
        pieces = torch.split(x, max(1, _GRAIN // width))
        return torch.cat([super(RowwiseGate, self).__call__(piece) for piece in pieces])

    def at_once(self, rows: int, width: int) -> bool:
        """Whether no thread's share of so many rows ends within a vector."""
        threads = min(torch.get_num_threads(), -(-rows * width // _GRAIN))
        if rows % threads == 0:
            return True
        return width % _VECTOR == 0 and rows * width % (threads * _VECTOR) == 0
