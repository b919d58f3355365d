"""RMS norms against float64."""

import pytest
import torch

from quire.backends.kernels.norm import add_rms_norm, head_rms_norms, rms_norm
from tests.kernels.oracles import assert_close, random
from tests.kernels.oracles import rms_norm as oracle

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size", "stride"), [(1, 64, 64), (3, 257, 300), (5, 1000, 1000)])
def test_rms_norm(rows: int, size: int, stride: int, dtype: torch.dtype) -> None:
    x, weight = random(rows, stride, dtype=dtype)[:, :size], random(size, dtype=dtype)
    assert_close(rms_norm(x, weight, 1e-5), oracle(x, weight, 1e-5))


def test_small_values_are_ruled_by_eps() -> None:
    x, weight = random(2, 96, dtype=torch.bfloat16, scale=1e-4), torch.ones(96).bfloat16()
    assert_close(rms_norm(x, weight, 1e-2), oracle(x, weight, 1e-2))


def test_any_leading_dimensions() -> None:
    x, weight = random(2, 3, 48, dtype=torch.float16), random(48, dtype=torch.float16)
    assert_close(rms_norm(x, weight, 1e-6), oracle(x, weight, 1e-6))


def test_no_rows() -> None:
    assert rms_norm(torch.empty(0, 64), torch.ones(64), 1e-6).shape == (0, 64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (4, 515)])
def test_add_rms_norm(rows: int, size: int, dtype: torch.dtype) -> None:
    x, weight = random(rows, size + 8, dtype=dtype)[:, :size], random(size, dtype=dtype)
    residual = random(rows, size + 4, dtype=dtype)
    beyond = residual[:, size:].clone()
    total = x + residual[:, :size]
    normed = add_rms_norm(x, residual[:, :size], weight, 1e-5)
    assert torch.equal(residual[:, :size], total)
    assert torch.equal(residual[:, size:], beyond)
    assert_close(normed, oracle(total, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("q_heads", "k_heads", "dim"), [(4, 1, 64), (9, 3, 80), (16, 2, 128)])
def test_head_norms(q_heads: int, k_heads: int, dim: int, dtype: torch.dtype) -> None:
    """In place in the views of one product, whose values stay as they are."""
    qkv = random(3, (q_heads + 2 * k_heads) * dim, dtype=dtype)
    q, k, v = qkv.view(3, -1, dim).split([q_heads, k_heads, k_heads], 1)
    q_weight, k_weight = random(dim, dtype=dtype), random(dim, dtype=dtype)
    expected = oracle(q, q_weight, 1e-6), oracle(k, k_weight, 1e-6), v.clone()
    head_rms_norms(q, k, q_weight, k_weight, 1e-6)
    assert_close(q, expected[0])
    assert_close(k, expected[1])
    assert torch.equal(v, expected[2])
