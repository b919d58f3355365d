"""GPTQ (Frantar et al., arXiv 2210.17323): what rounding a weight breaks, later weights mend.

Inputs are rounded one after another, and the error of each is spread over those still to come as
the inverse of the Hessian of the layer's squared error says.
"""

from __future__ import annotations

import torch

from ...core.errors import CheckpointError
from ..weights import GroupedWeight
from .grid import Grid, fit_best, in_groups

__all__ = ("round_by_hessian",)

_BLOCK = 128


def round_by_hessian(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    order_groups: bool,
    damping: float,
) -> GroupedWeight:
    """Round a matrix so that its product with the inputs seen changes little.

    Inputs are taken in falling order of their Hessian's diagonal, the most active ones first, while
    many others can still mend them.

    Args:
        weight: float32 [N, K].
        hessian: float32 [K, K], mean of x^T x over inputs.
        bits: of a code.
        group_size: divides K, and is a divisor or a multiple of 128.
        symmetric: zero is the middle code.
        order_groups: inputs of like activity share a group, which a reader then needs an index for;
            otherwise neighbours do.
        damping: added to the diagonal, in shares of its mean.

    Raises:
        CheckpointError: when the Hessian is not a number, as after inputs that overflow.
    """
    activity = hessian.diagonal().clone()
    order = torch.argsort(activity, descending=True, stable=True)
    spread = _spread(hessian[order][:, order], damping)
    columns = weight.T[order].contiguous()
    grids = _Grids(weight, activity, order, bits, group_size, symmetric, order_groups)
    codes = torch.empty_like(columns, dtype=torch.uint8)
    for start in range(0, len(columns), _BLOCK):
        end = min(start + _BLOCK, len(columns))
        block = columns[start:end]
        errors = torch.empty_like(block)
        for at, column in enumerate(block):
            grids.reach(start + at, columns)
            code, level = grids.round(start + at, column)
            codes[start + at] = code
            torch.sub(column, level, out=errors[at])
            block[at + 1 :].addr_(spread[start + at, start + at + 1 : end], errors[at], alpha=-1)
        columns[end:].addmm_(spread[start:end, end:].T, errors, alpha=-1)
    if not order_groups:
        codes = torch.empty_like(codes).index_copy_(0, order, codes)
    zeros = None if symmetric else grids.zero.T.to(torch.uint8).contiguous()
    return GroupedWeight(
        codes=codes.T.contiguous(),
        scales=grids.scale.T.half().contiguous(),
        zeros=zeros,
        bits=bits,
        group_size=group_size,
        order=order if order_groups else None,
    )


class _Grids:
    """The grid of each group, [groups, N]: all at once, or each when its first input is reached."""

    def __init__(
        self,
        weight: torch.Tensor,
        activity: torch.Tensor,
        order: torch.Tensor,
        bits: int,
        group_size: int,
        symmetric: bool,
        order_groups: bool,
    ) -> None:
        self._bits, self._size, self._symmetric = bits, group_size, symmetric
        self._activity = activity[order]
        self._late = order_groups
        if order_groups:
            self.scale = weight.new_empty(len(order) // group_size, len(weight))
            self.zero = torch.empty_like(self.scale)
            self._group = [at // group_size for at in range(len(order))]
            return
        grid = fit_best(
            in_groups(weight, group_size),
            bits,
            symmetric=symmetric,
            importance=activity.view(-1, group_size),
        )
        self.scale, self.zero = (x.squeeze(-1).T.contiguous() for x in (grid.scale, grid.zero))
        self._group = (order // group_size).tolist()

    def reach(self, at: int, columns: torch.Tensor) -> None:
        """Input ``at`` of the order comes next; columns [K, N] are as mended so far."""
        if not self._late or at % self._size:
            return
        grid = fit_best(
            columns[at : at + self._size].T,
            self._bits,
            symmetric=self._symmetric,
            importance=self._activity[at : at + self._size],
        )
        self.scale[at // self._size] = grid.scale.squeeze(-1)
        self.zero[at // self._size] = grid.zero.squeeze(-1)

    def round(self, at: int, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and levels, float32 [N]."""
        group = self._group[at]
        grid = Grid(self.scale[group], self.zero[group], 2**self._bits - 1)
        codes = grid.codes(column)
        return codes, (codes - grid.zero).mul_(grid.scale)


def _spread(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Row k, right of the diagonal: how much of input k's error each later input takes on.

    These are the rows of U, with H^-1 = U^T U, over their diagonal. With H = R R^T and R upper
    triangular, U is R^-1; R is the Cholesky factor of H with both its axes turned around.
    """
    turned = hessian.flip(0, 1).double()
    mean = turned.diagonal().mean()
    if not torch.isfinite(mean):
        raise CheckpointError(
            "the calibration text gives activations that are not finite; this model cannot be "
            "calibrated in float32"
        )
    added = damping * mean.clamp(min=1e-12)
    turned.diagonal().add_(added)
    factor, failed = torch.linalg.cholesky_ex(turned)
    while failed:
        turned.diagonal().add_(9 * added)
        added = 10 * added
        factor, failed = torch.linalg.cholesky_ex(turned)
    del turned
    upper: torch.Tensor = torch.linalg.solve_triangular(
        factor.flip(0, 1),
        torch.eye(len(factor), dtype=factor.dtype, device=factor.device),
        upper=True,
    )
    return upper.div_(upper.diagonal().clone().unsqueeze(1)).float()
