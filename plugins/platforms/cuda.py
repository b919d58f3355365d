"""NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import torch

from ...core.contracts.platform import (
    Gate,
    Kernels,
    Memory,
    Norm,
    Platform,
    PlatformDefaults,
    Product,
    ProductShape,
)
from ...core.errors import ConfigError
from ...core.run.sample_table import Draw
from ...core.run.slot_kernels import SlotKernels

__all__ = ("CUDA",)


class CUDA(Platform):
    """The current CUDA device."""

    device_type = "cuda"
    rank = 10

    def __init__(self) -> None:
        self._deterministic = False

    def available(self) -> bool:
        return torch.cuda.is_available()

    def setup(self, *, deterministic: bool = False) -> torch.device:
        self._deterministic = deterministic
        device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)
        return device

    def defaults(self) -> PlatformDefaults:
        return PlatformDefaults(
            dtypes=("bfloat16", "float16", "float32"),
            attention=("triton_paged", "triton_alike", "reference"),
            overlap=True,
            max_num_seqs=512,
            max_num_batched_tokens=8192,
        )

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info()
        return Memory(total=total, free=free)

    def norm(self, weight: torch.Tensor, eps: float) -> Norm:
        norm: Norm = _operations().TritonNorm(weight, eps)
        return norm

    def gate(self, act: str) -> Gate:
        gate: Gate = _operations().TritonGate(act)
        return gate

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        if self._deterministic and weight.dtype.itemsize != 2:
            raise ConfigError(
                f"model.deterministic works with bfloat16 and float16 on a GPU, and model.dtype is "
                f"{str(weight.dtype).removeprefix('torch.')}; set model.dtype"
            )
        product: Product = _operations().TritonProduct(weight, bias, alike=self._deterministic)
        return product

    def kernels(self) -> Kernels:
        kernels: Kernels = _operations().TritonKernels(alike=self._deterministic)
        return kernels

    def draw(self, max_rows: int, vocab_size: int, device: torch.device) -> Draw | None:
        from ...backends.kernels.sampling import TritonDraw

        return TritonDraw(max_rows=max_rows, vocab_size=vocab_size, device=device)

    def slot_kernels(self) -> SlotKernels | None:
        from ...backends.kernels.slots import TritonSlots

        return TritonSlots()

    def compiling(self) -> AbstractContextManager[None]:
        compiling: AbstractContextManager[None] = _operations().compiling_only()
        return compiling

    def tune(self, shapes: list[ProductShape], out: Path | None) -> Iterator[str]:
        from ...backends.kernels import tuning

        lines: Iterator[str] = tuning.tune(shapes, out, self.setup())
        return lines

    def release(self) -> None:
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        torch.cuda.synchronize()


def _operations() -> ModuleType:
    """The kernels, only where there is a device: machines without one need no Triton."""
    from ...backends.kernels import operations

    return operations
