"""CPUs, with a row's result the same whichever rows stand beside it."""

from __future__ import annotations

import os
from functools import cache

import torch

from ...backends.cpu.rows import CPUGate, CPUNorm
from ...core.contracts.platform import Memory, Platform, PlatformDefaults, Product
from .cpu_product import make_draft_product, make_product
from .host import cpu_flags, memory_bytes, physical_cores

__all__ = ("CPU",)

# Weights that stay in the caches between two drafts, however they are held.
_FEW_WEIGHTS = 2**20
_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


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
            overlap=False,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
        )

    def memory(self) -> Memory:
        total, free = memory_bytes()
        return Memory(total=total, free=free)

    def norm(self, weight: torch.Tensor, eps: float) -> CPUNorm:
        return CPUNorm(weight, eps)

    def gate(self, act: str) -> CPUGate:
        return CPUGate(act)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        return make_product(weight, bias, fast_bfloat16=_fast_bfloat16())

    def for_drafts(self) -> Platform:
        return _DraftCPU()

    def release(self) -> None:
        """The host's allocator does so by itself."""

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back."""


class _DraftCPU(CPU):
    """The same with products as fast as they can be had: a wrong bit in a draft costs nothing."""

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        if weight.dtype is torch.bfloat16 and not _fast_bfloat16():
            return super().product(weight, bias)
        if weight.numel() > _FEW_WEIGHTS:
            return super().product(weight, bias)
        return make_draft_product(weight, bias)


@cache
def _fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    return bool(cpu_flags() & _FAST_BFLOAT16)
