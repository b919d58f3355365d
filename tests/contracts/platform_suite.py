"""What every platform must do; ``check_platform`` takes one that is available here."""

from __future__ import annotations

import torch

from quire.core.contracts.platform import Platform

__all__ = ("check_platform",)


def check_platform(platform: Platform) -> None:
    """Set it up, look at its numbers, and multiply.

    Raises:
        AssertionError: where something does not hold.
    """
    if not platform.available():
        raise AssertionError("the platform is not available on this machine")
    device = platform.setup()
    if device.type != platform.device_type:
        raise AssertionError(f"device_type is {platform.device_type}, and setup gives {device}")
    memory = platform.memory()
    if not 0 < memory.free <= memory.total:
        raise AssertionError(f"memory makes no sense: {memory}")
    defaults = platform.defaults()
    if not defaults.dtypes or not defaults.attention:
        raise AssertionError("defaults name no dtype or no attention backend")
    if min(defaults.max_num_seqs, defaults.max_num_batched_tokens) < 1:
        raise AssertionError("defaults allow no sequence or no token")
    for dtype in defaults.dtypes:
        _check_product(platform, device, getattr(torch, dtype))
    platform.synchronize()


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
                if bias is not None:
                    expected += bias.double().cpu()
                if found.dtype != dtype or found.shape != expected.shape:
                    raise AssertionError(f"a product is {found.dtype} {list(found.shape)}")
                error = (found.double().cpu() - expected).norm() / expected.norm()
                if not error <= tolerance:
                    raise AssertionError(f"{out}x{width}, {tokens} tokens, {dtype}: off by {error}")
