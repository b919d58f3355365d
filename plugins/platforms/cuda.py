"""NVIDIA GPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...core.contracts.platform import Gate, Memory, Norm, Platform, PlatformDefaults
from ...core.layers.mlp import TorchGate
from ...core.layers.norm import TorchNorm

__all__ = ("CUDA",)


class CUDA(Platform):
    """The current CUDA device."""

    device_type = "cuda"
    rank = 10

    def available(self) -> bool:
        return torch.cuda.is_available()

    def setup(self) -> torch.device:
        device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)
        return device

    def defaults(self) -> PlatformDefaults:
        return PlatformDefaults(
            dtypes=("bfloat16", "float16", "float32"),
            attention=("reference",),
            overlap=True,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
        )

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info()
        return Memory(total=total, free=free)

    def norm(self, weight: torch.Tensor, eps: float) -> Norm:
        return TorchNorm(weight, eps)

    def gate(self, act: str) -> Gate:
        return TorchGate(act)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> _Product:
        return _Product(weight, bias)

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class _Product:
    """A product by cuBLAS; see ``platform.Product``."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if norm is not None:
            x = norm(x)
        if add is not None and gate is None and self._bias is None:
            # cuBLAS reads and adds while it writes, in float32.
            return add.addmm_(x, self._weight.t())
        y = F.linear(x, self._weight, self._bias)
        if gate is not None:
            y = gate(y)
        return y if add is None else add.add_(y)
