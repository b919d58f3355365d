"""RMS norms against float64."""

import pytest
import torch

from quire.backends.kernels.norm import rms_norm
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
