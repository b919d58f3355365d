"""Norms and gates on a CPU: each row by itself, so that its bits depend on no other."""

from __future__ import annotations

import struct
from functools import cache

import torch

from ...core.layers.mlp import TorchGate
from ...core.layers.norm import TorchNorm
from .compiled import Call, compiled

__all__ = ("ACTIVATIONS", "BITS", "CPUGate", "CPUNorm", "float_bits", "misfit")

BITS = {torch.float32: 32, torch.bfloat16: 16}
"""Of the elements that kernels read; nothing else is read."""

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2}
"""``Gate.act`` -> its place in the kernels' table."""
_GRAIN = 2**14
"""Elements that are worth another thread."""


@cache
def float_bits(value: float, second: float = 0.0) -> int:
    """Two float32 as a kernel's argument."""
    (bits,) = struct.unpack("q", struct.pack("ff", value, second))
    return int(bits)


def misfit(x: torch.Tensor, weight: torch.Tensor) -> ValueError:
    """Of what a kernel, which only sees addresses, would read as something else."""
    return ValueError(
        f"{x.dtype} {list(x.shape)} does not fit a weight of {weight.dtype} {list(weight.shape)}"
    )


class CPUNorm(TorchNorm):
    """See ``platform.Norm``."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__(weight.contiguous(), eps)
        fixed = self.weight.data_ptr(), weight.numel(), float_bits(eps)
        self._call = Call(compiled("norm", BITS[weight.dtype]), 6, fixed)
        self._size = weight.numel()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        if size != self._size or x.dtype is not self.weight.dtype:
            raise misfit(x, self.weight)
        if x.dim() == 3 and x.stride()[1:] == (size, 1):
            together, stride = x.shape[1], x.stride(0)
        else:
            x = x.contiguous()
            together, stride = 1, size
        out = torch.empty(x.shape, dtype=x.dtype)
        rows = x.numel() // size
        threads, piece = _shares(rows, size)
        self._call(threads, x.data_ptr(), out.data_ptr(), rows, piece, together, stride)
        return out


class CPUGate(TorchGate):
    """See ``platform.Gate``."""

    def __init__(self, act: str) -> None:
        super().__init__(act)
        self._calls: dict[torch.dtype, Call] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        call = self._calls.get(x.dtype)
        if call is None:
            kernel = compiled("gate", BITS[x.dtype], ACTIVATIONS[self.act])
            call = self._calls[x.dtype] = Call(kernel, 5, ())
        x = x.contiguous()
        rows, size = len(x), x.shape[1] // 2
        out = torch.empty(rows, size, dtype=x.dtype)
        threads, piece = _shares(rows, size)
        call(threads, x.data_ptr(), out.data_ptr(), rows, piece, size)
        return out


def _shares(rows: int, size: int) -> tuple[int, int]:
    """How many threads take rows, and how many rows at a time."""
    threads = min(torch.get_num_threads(), 1 + rows * size // _GRAIN)
    return threads, max(1, rows // (4 * threads))
