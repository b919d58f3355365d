"""The compile helpers see what they are meant to see."""

import torch
import triton
import triton.language as tl

from tests.kernels.compiling import SHARED_LIMIT, compiling


@triton.jit
def _product(x_ptr, y_ptr, out_ptr, K, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    rows, columns, k = tl.arange(0, BLOCK), tl.arange(0, WIDTH), tl.arange(0, 64)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, K, 64):
        x = tl.load(x_ptr + rows[:, None] * K + start + k[None, :])
        y = tl.load(y_ptr + columns[None, :] * K + start + k[:, None])
        total = tl.dot(x, y, total)
    tl.store(out_ptr + rows[:, None] * WIDTH + columns[None, :], total)


def _compile(capability: int, width: int, warps: int):
    x = torch.empty(128, 512, dtype=torch.bfloat16, device="meta")
    out = torch.empty(128, width, device="meta")
    with compiling(capability) as kernels:
        _product[(1,)](x, x, out, 512, BLOCK=128, WIDTH=width, num_warps=warps)
    (kernel,) = kernels
    return kernel


def test_hopper() -> None:
    kernel = _compile(90, 64, 4)
    assert kernel.name == "_product"
    assert kernel.has_wgmma and "HGMMA" in kernel.sass
    assert 0 < kernel.shared <= SHARED_LIMIT[90]
    assert 0 < kernel.registers < 255 and kernel.stack == 0


def test_ampere() -> None:
    kernel = _compile(80, 64, 4)
    assert not kernel.has_wgmma and "mma.sync" in kernel.ptx


def test_spills_are_seen() -> None:
    kernel = _compile(90, 256, 2)
    assert kernel.registers == 255 and kernel.stack > 0
