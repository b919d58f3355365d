"""Bringing weights nearer while the kernel before still runs."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ("prefetch", "prefetch_scales")


@triton.jit
def prefetch(at):
    """Bring the lines of these addresses into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_scales(
    scale_ptr, zero_ptr, at, N: tl.constexpr, ZERO: tl.constexpr, GATED: tl.constexpr
):
    """The same for scales and zeros, behind a gate of both halves, which are N apart."""
    prefetch(scale_ptr + at)
    if ZERO:
        prefetch(zero_ptr + at)
    if GATED:
        prefetch(scale_ptr + N + at)
        if ZERO:
            prefetch(zero_ptr + N + at)
