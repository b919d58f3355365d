"""Platforms: honest numbers, products that are right for every shape and dtype offered, and slot
kernels that do what torch's operators do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..contracts.platform import Platform
from .report import Unchecked, require
from .slot_kernels import check_slot_kernels

__all__ = ("check_platform",)


def check_platform(factory: Callable[[], Platform]) -> None:
    """Set it up, look at its numbers, and multiply.

    Args:
        factory: makes one, without arguments.

    Raises:
        ConformanceError: naming the first broken promise.
        Unchecked: when this machine has no such device.
    """
    platform = factory()
    if not platform.available():
        raise Unchecked(f"this machine has no {platform.device_type} device")
    device = platform.setup()
    same = device.type == platform.device_type
    require(same, f"device_type is {platform.device_type}, and setup gives {device}")
    memory = platform.memory()
    require(0 < memory.free <= memory.total, f"memory makes no sense: {memory}")
    defaults = platform.defaults()
    named = bool(defaults.dtypes and defaults.attention)
    require(named, "defaults name no dtype or no attention backend")
    least = min(defaults.max_num_seqs, defaults.max_num_batched_tokens)
    require(least >= 1, "defaults allow no sequence or no token")
    for dtype in defaults.dtypes + defaults.dtypes_on_request:
        _check_product(platform, device, getattr(torch, dtype))
    kernels = platform.slot_kernels()
    if kernels is not None:
        check_slot_kernels(kernels, device, platform.synchronize)
    platform.synchronize()
    platform.release()


def _check_product(platform: Platform, device: torch.device, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for out, width in ((1, 1), (7, 33), (96, 64)):
        for bias in (None, torch.randn(out).to(device, dtype)):
            weight = torch.randn(out, width).to(device, dtype)
            expected_weight = weight.double().cpu()
            multiply = platform.product(weight, bias)
            for tokens in (1, 5, 130):
                x = torch.randn(tokens, width).to(device, dtype)
                found = multiply(x)
                expected = x.double().cpu() @ expected_weight.T
                size = expected.abs()
                if bias is not None:
                    # Of what is added, not of what that leaves.
                    expected += bias.double().cpu()
                    size += bias.double().cpu().abs()
                same = found.dtype == dtype and found.shape == expected.shape
                require(same, f"a product is {found.dtype} {list(found.shape)}")
                error = (found.double().cpu() - expected).norm() / size.norm()
                close = bool(error <= tolerance)
                require(close, f"{out}x{width}, {tokens} tokens, {dtype}: off by {error}")
