"""Gated MLP (Shazeer, arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..contracts.model import BuildContext, TensorHolder
from ..contracts.platform import Norm
from .linear import make_linear

__all__ = ("ACTIVATIONS", "GatedMLP", "TorchGate")


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}
"""``hidden_act`` of a config -> function."""


class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up in one product.

    Args:
        name: of the module in the checkpoint.
        hidden_size: width of x.
        intermediate_size: width of gate and up.
        act: a key of ACTIVATIONS.
        bias: whether the three have one.
        context: what to build with.
    """

    def __init__(
        self,
        name: str,
        hidden_size: int,
        intermediate_size: int,
        *,
        act: str,
        bias: bool,
        context: BuildContext,
    ) -> None:
        gate_up = (f"{name}.gate_proj", f"{name}.up_proj")
        widths = (intermediate_size, intermediate_size)
        self._gate_up = make_linear(gate_up, widths, hidden_size, bias=bias, context=context)
        self._down = make_linear(
            (f"{name}.down_proj",), (hidden_size,), intermediate_size, bias=bias, context=context
        )
        self._gate = context.platform.gate(act)

    def holders(self) -> list[TensorHolder]:
        """Both products."""
        return [self._gate_up, self._down]

    def __call__(
        self, x: torch.Tensor, *, norm: Norm | None = None, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, hidden_size] -> [T, hidden_size].

        Args:
            x: the input.
            norm: applied to x first.
            add: [T, hidden_size] to add the result to; it may be written into.
        """
        if self._down.takes_gate(len(x)):
            return self._down.behind_gate(self._gate_up.fused(x, norm=norm), self._gate, add=add)
        return self._down.fused(self._gate_up.fused(x, norm=norm, gate=self._gate), add=add)


class TorchGate:
    """The gated activation by torch's own operators; see ``platform.Gate``."""

    def __init__(self, act: str) -> None:
        self.act = act
        self._function = ACTIVATIONS[act]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = torch.chunk(x, 2, -1)
        return self._function(gate).mul_(up)
