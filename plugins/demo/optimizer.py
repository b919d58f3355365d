"""The optimizer: Muon for the layers' matrices, Adam for embeddings, heads and norms."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

__all__ = ("MuonAdam", "orthogonalise")

_BETAS = (0.9, 0.95)
_MOMENTUM = 0.95


def orthogonalise(g: Tensor) -> Tensor:
    """Bring a batch of matrices close to orthogonal ones by Newton-Schulz steps.

    Args:
        g: Matrices of shape (batch, rows, columns).
    """
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    out: Tensor = x.mT if tall else x
    return out.float()


class MuonAdam:
    """Muon and Adam over one model, with all state in named tensors.

    Matrices of one shape are stepped as one batch, since launching a kernel per matrix would cost
    more than the arithmetic of so small a model.
    """

    def __init__(self, model: nn.Module, matrix_rate: float, other_rate: float) -> None:
        """Create the state for a model's parameters.

        Args:
            model: The model.
            matrix_rate: Peak learning rate of the layers' matrices.
            other_rate: Peak learning rate of embeddings and norms.
        """
        self.matrix_rate, self.other_rate = matrix_rate, other_rate
        groups: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        self.others: list[Tensor] = []
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
                groups[tuple(weight.shape)].append(weight)
            else:
                self.others.append(weight)
        self.groups = list(groups.values())
        self.momenta = [torch.zeros_like(torch.stack(group)) for group in self.groups]
        self.first = [torch.zeros_like(weight) for weight in self.others]
        self.second = [torch.zeros_like(weight) for weight in self.others]

    @torch.no_grad()
    def step(self, number: int, scale: float) -> None:
        """Take one step and clear the gradients.

        Args:
            number: Steps taken before this one.
            scale: The schedule's factor on both learning rates.
        """
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([_gradient(weight) for weight in group])
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, _MOMENTUM))
            rate = self.matrix_rate * scale * max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            torch._foreach_mul_(group, 1 - 0.05 * self.matrix_rate * scale)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-rate)
        gradients = [_gradient(weight) for weight in self.others]
        torch._foreach_lerp_(self.first, gradients, 1 - _BETAS[0])
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_lerp_(self.second, list(squares), 1 - _BETAS[1])
        first_scale = 1 - _BETAS[0] ** (number + 1)
        second_scale = 1 - _BETAS[1] ** (number + 1)
        roots = [(second / second_scale).sqrt_().add_(1e-10) for second in self.second]
        rate = -self.other_rate * scale / first_scale
        torch._foreach_addcdiv_(self.others, self.first, roots, value=rate)
        for weight in [*self.others, *(weight for group in self.groups for weight in group)]:
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return all state, for a checkpoint."""
        named = {"momentum": self.momenta, "first": self.first, "second": self.second}
        return {
            f"{name}.{index}": tensor
            for name, tensors in named.items()
            for index, tensor in enumerate(tensors)
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def _gradient(weight: Tensor) -> Tensor:
    """Return a weight's gradient, zero where it took no part."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
