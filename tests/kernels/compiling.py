"""Compile kernels for a GPU that is not there, through the very wrappers that launch them.

    with compiling(90) as kernels:
        rms_norm(torch.empty(4, 4096, dtype=torch.bfloat16, device="meta"), weight, 1e-5)
    assert kernels[0].stack == 0

Triton's wheel brings NVIDIA's assembler and disassembler, so this needs no GPU and no driver. What
a launch would check is not checked: compare ``shared`` with SHARED_LIMIT.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

__all__ = ("SHARED_LIMIT", "Compiled", "compiling")

SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""Compute capability -> bytes of shared memory that one program may have."""

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class _Absent:
    """A driver of a device that is not there; devices are numbered by compute capability."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@dataclass
class Compiled:
    """One variant of a kernel.

    Attributes:
        kernel: Triton's result; ``kernel.asm`` has ttir, ttgir, llir, ptx and cubin.
        options: what the launch asked for: constants, num_warps, num_stages.
    """

    kernel: CompiledKernel
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the function."""
        return str(self.kernel.metadata.name)

    @property
    def shared(self) -> int:
        """Bytes of shared memory a program takes."""
        return int(self.kernel.metadata.shared)

    @property
    def registers(self) -> int:
        """A thread's."""
        return self._resources["REG"]

    @property
    def stack(self) -> int:
        """Bytes of a thread's stack frame and local memory, where spilled registers go."""
        return self._resources["STACK"] + self._resources["LOCAL"]

    @property
    def ptx(self) -> str:
        """The assembly: look for "wgmma.mma_async", "cp.async", "ld.global.v4"."""
        return str(self.kernel.asm["ptx"])

    @property
    def has_wgmma(self) -> bool:
        """Whether it uses Hopper's matrix instructions."""
        return "wgmma.mma_async" in self.ptx

    @cached_property
    def sass(self) -> str:
        """The machine code, for what only that shows: LDG.E.128, HGMMA, LDL."""
        return self._inspect("nvdisasm", "-c")

    @cached_property
    def _resources(self) -> dict[str, int]:
        report = self._inspect("cuobjdump", "--dump-resource-usage")
        return {name: int(value) for name, value in re.findall(r"([A-Z]+):(\d+)", report)}

    def _inspect(self, tool: str, flag: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(self.kernel.asm["cubin"])
            cubin.flush()
            command = [_TOOLS / tool, flag, cubin.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Launches inside compile for the compute capability (90 is Hopper) and do not run.

    Yields:
        What was compiled, in the order of the launches. Give the wrappers tensors of device "meta":
        nothing reads them, and Triton specialises on their alignment as it does for real ones.
    """
    kernels: list[Compiled] = []
    run, device = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, **options: Any) -> CompiledKernel:
        kernel = run(self, *args, **options | {"warmup": True})
        kernels.append(Compiled(kernel, options))
        return kernel

    driver.set_active(_Absent(capability))
    JITFunction.run = compile_only
    try:
        yield kernels
    finally:
        JITFunction.run = run
        driver.set_active(device)
