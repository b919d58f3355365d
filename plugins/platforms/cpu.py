"""CPUs, with a row's result the same whichever rows stand beside it."""

from __future__ import annotations

import os

import torch

from ...core.contracts.platform import Memory, Platform, PlatformDefaults
from ...core.layers.linear import ComposedProduct
from ...core.layers.mlp import TorchGate
from ...core.layers.norm import TorchNorm
from .cpu_product import make_product
from .host import cpu_flags, memory_bytes, physical_cores

__all__ = ("CPU",)

_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_GRAIN = 2**15
"""Elements from which on torch divides an elementwise operation among threads."""
_VECTOR = 64
"""Elements that every instruction set's loop takes at once, or a multiple."""


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
        fast = _fast_bfloat16()
        return PlatformDefaults(
            dtypes=("bfloat16", "float32") if fast else ("float32",),
            dtypes_on_request=() if fast else ("bfloat16",),
            attention=("cpu", "reference"),
            draft_attention="sdpa",
            overlap=False,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
        )

    def memory(self) -> Memory:
        total, free = memory_bytes()
        return Memory(total=total, free=free)

    def norm(self, weight: torch.Tensor, eps: float) -> TorchNorm:
        return _OneOperationNorm(weight, eps)

    def gate(self, act: str) -> TorchGate:
        return _RowwiseGate(act)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> ComposedProduct:
        return ComposedProduct(make_product(weight, bias, fast_bfloat16=_fast_bfloat16()))

    def release(self) -> None:
        """The host's allocator does so by itself."""

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back."""


class _OneOperationNorm(TorchNorm):
    """A layer norm in place of the eight operations of torch's RMS norm.

    The mean of [x, -x] is 0 and its variance is the mean square of x, so its layer norm, for which
    torch has a single kernel, is the RMS norm. From about 32 rows on the eight are faster, but they
    round otherwise, and a row must not change with the number of its neighbours.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__(weight, eps)
        self._twice = weight.expand(2, -1).contiguous()
        self._signs = weight.new_tensor([[1], [-1]])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        both = x.unsqueeze(-2) * self._signs
        normed = torch.layer_norm(both, self._twice.shape, self._twice, None, self.eps)
        return normed.select(-2, 0)


class _RowwiseGate(TorchGate):
    """The gate, with every row computed alike whatever their number.

    Torch's loops take the last elements of a thread's share one by one, and those round otherwise
    than whole vectors. Shares that do not end with a vector are avoided by taking so few rows that
    one thread computes them.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, width = len(x), x.shape[1] // 2
        threads = min(torch.get_num_threads(), -(-rows * width // _GRAIN))
        if rows % threads == 0 or (
            width % _VECTOR == 0 and rows * width % (threads * _VECTOR) == 0
        ):
            return super().__call__(x)
        pieces = torch.split(x, max(1, _GRAIN // width))
        return torch.cat([super(_RowwiseGate, self).__call__(piece) for piece in pieces])


def _fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    return bool(cpu_flags() & _FAST_BFLOAT16)
