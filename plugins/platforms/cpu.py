"""CPUs, with products by oneDNN on weights in its own order.

Measured on a Xeon with AMX and on a Zen 5: packed weights multiply 1.1 to 2 times as fast as
``F.linear`` for 1 to 64 rows, in bfloat16 and float32, and about the same from 256 rows on.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import torch.nn.functional as F

from ...core.contracts.platform import Memory, Platform, PlatformDefaults
from ...core.layers.linear import ComposedProduct
from ...core.layers.mlp import TorchGate
from ...core.layers.norm import TorchNorm
from .host import cpu_flags, memory_bytes, physical_cores

__all__ = ("CPU",)

_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_PACKED = (torch.bfloat16, torch.float32)
# Measured: up to about here a CPU spends more time starting operations than computing.
_FEW_ELEMENTS = 2**14


class CPU(Platform):
    """The host's own cores."""

    device_type = "cpu"
    rank = 0

    def available(self) -> bool:
        return True

    def setup(self, *, deterministic: bool = False) -> torch.device:
        # With OMP_NUM_THREADS set, torch has already taken it.
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(physical_cores())
        return torch.device("cpu")

    def defaults(self) -> PlatformDefaults:
        fast = bool(cpu_flags() & _FAST_BFLOAT16)
        return PlatformDefaults(
            dtypes=("bfloat16", "float32") if fast else ("float32",),
            attention=("cpu", "reference"),
            overlap=False,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
        )

    def memory(self) -> Memory:
        total, free = memory_bytes()
        return Memory(total=total, free=free)

    def norm(self, weight: torch.Tensor, eps: float) -> TorchNorm:
        return _FewOperationsNorm(weight, eps)

    def gate(self, act: str) -> TorchGate:
        return TorchGate(act)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> ComposedProduct:
        if weight.dtype in _PACKED and _packing_works(weight.dtype):
            return _packed_product(weight, bias)

        def multiply(x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, weight, bias)

        return ComposedProduct(multiply)

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back."""


class _FewOperationsNorm(TorchNorm):
    """For few elements, a layer norm in place of the eight operations of torch's RMS norm.

    The mean of [x, -x] is 0 and its variance is the mean square of x, so its layer norm, for which
    torch has a single kernel, is the RMS norm.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__(weight, eps)
        self._twice = torch.cat((weight, weight))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > _FEW_ELEMENTS:
            return super().__call__(x)
        both = torch.cat((x, -x), -1)
        normed = torch.layer_norm(both, self._twice.shape, self._twice, None, self.eps)
        return normed.narrow(-1, 0, len(self.weight))


def _packed_product(weight: torch.Tensor, bias: torch.Tensor | None) -> ComposedProduct:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    run = torch.ops.mkldnn._linear_pointwise.default

    def multiply(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = run(x, packed, bias, "none", [], "")
        return product

    return ComposedProduct(multiply)


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Whether torch's private operators are here, and right: they may change with any release."""
    weight = torch.linspace(-1, 1, 48 * 32).view(48, 32).sin().to(dtype)
    bias = torch.linspace(-1, 1, 48).to(dtype)
    x = torch.linspace(-1, 1, 5 * 32).view(5, 32).cos().to(dtype)
    tolerance = 0.02 if dtype is torch.bfloat16 else 1e-5
    try:
        with torch.inference_mode():
            found = _packed_product(weight, bias)(x)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    expected = F.linear(x.double(), weight.double(), bias.double())
    error = (found.double() - expected).norm() / expected.norm()
    return found.dtype == dtype and bool(error < tolerance)
