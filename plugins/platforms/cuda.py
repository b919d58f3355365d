"""NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...core.contracts.platform import Memory, Platform, PlatformDefaults

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

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        def multiply(x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, weight, bias)

        return multiply

    def synchronize(self) -> None:
        torch.cuda.synchronize()
