"""The repaired interpreter against torch; an unrepaired one fails every one of these."""

import pytest
import torch
import triton
import triton.language as tl

KINDS = [torch.bfloat16, torch.float16, torch.float32]


@triton.jit
def _casts(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y_ptr + at, tl.load(x_ptr + at).to(y_ptr.dtype.element_ty))


@triton.jit
def _elementwise(x_ptr, y_ptr, out_ptr, flags_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    x = tl.load(x_ptr + at)
    y = tl.load(y_ptr + at)
    tl.store(out_ptr + at, x * y + x - y)
    tl.store(flags_ptr + at, tl.where(x < y, 1, 0) + tl.where(x > 0.5, 2, 0))


@triton.jit
def _product(x_ptr, y_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(x_ptr + m[:, None] * K + k[None, :])
    y = tl.load(y_ptr + k[:, None] * N + n[None, :])
    tl.store(out_ptr + m[:, None] * N + n[None, :], tl.dot(x, y))


@triton.jit
def _extremes(x_ptr, y_ptr, larger_ptr, smaller_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    tl.store(larger_ptr + at, tl.maximum(x, y))
    tl.store(smaller_ptr + at, tl.minimum(x, y))


@triton.jit
def _loaded_bound(count_ptr, out_ptr):
    total = 0
    for _ in range(tl.load(count_ptr)):
        total += 2
    tl.store(out_ptr, total)


@triton.jit
def _reduction(x_ptr, out_ptr, N: tl.constexpr):
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, N)), axis=0).to(tl.float32))


@pytest.mark.parametrize("target", [*KINDS, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("source", [*KINDS, torch.float8_e4m3fn, torch.float8_e5m2])
def test_casts_round_to_nearest_even_and_saturate(source: torch.dtype, target: torch.dtype) -> None:
    if 1 in (source.itemsize, target.itemsize) and torch.float32 not in (source, target):
        pytest.skip("through float32 in every kernel")
    x = (torch.randn(1024) * torch.logspace(-6, 6, 1024)).to(source)
    y = torch.empty(1024, dtype=target)
    _casts[(1,)](x, y, 1024)
    expected = x.float()
    if target.itemsize == 1:
        expected = expected.clamp(torch.finfo(target).min, torch.finfo(target).max)
    assert torch.equal(y.float(), expected.to(target).float())


@pytest.mark.parametrize("dtype", KINDS)
def test_elementwise(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 256).to(dtype)
    out, flags = torch.empty_like(x), torch.empty(256, dtype=torch.int32)
    _elementwise[(1,)](x, y, out, flags, 256)
    assert torch.equal(out, x * y + x - y)
    assert torch.equal(flags, (x < y).int() + 2 * (x > 0.5).int())


@pytest.mark.parametrize("dtype", KINDS)
def test_products(dtype: torch.dtype) -> None:
    x, y = torch.randn(16, 64).to(dtype), torch.randn(64, 32).to(dtype)
    out = torch.empty(16, 32)
    _product[(1,)](x, y, out, 16, 32, 64)
    torch.testing.assert_close(out.double(), x.double() @ y.double(), rtol=1e-5, atol=1e-5)


def test_a_loop_with_a_loaded_bound() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    _loaded_bound[(1,)](torch.tensor([3], dtype=torch.int32), out)
    assert out.item() == 6


def test_a_reduction_of_bfloat16_is_refused() -> None:
    x = torch.ones(16, dtype=torch.bfloat16)
    with pytest.raises(Exception, match="cast to float32 first"):
        _reduction[(1,)](x, torch.empty(1), 16)


def test_the_larger_of_nan_and_a_number_is_the_number() -> None:
    x, y = torch.tensor([1.0, torch.nan, 3.0, torch.nan]), torch.tensor([2.0, 2.0, torch.nan, 1.0])
    larger, smaller = torch.empty(4), torch.empty(4)
    _extremes[(1,)](x, y, larger, smaller, 4)
    assert torch.equal(larger, torch.fmax(x, y))
    assert torch.equal(smaller, torch.fmin(x, y))
