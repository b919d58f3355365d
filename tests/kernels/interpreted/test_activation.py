"""Gated activations against float64."""

import pytest
import torch

from quire.backends.kernels.activation import gated
from tests.kernels.oracles import assert_close, random
from tests.kernels.oracles import gated as oracle

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 1100)])
def test_gated(rows: int, width: int, act: str, dtype: torch.dtype) -> None:
    x = random(rows, 2 * width + 6, dtype=dtype)[:, : 2 * width]
    assert_close(gated(x, act), oracle(x, act), steps=2)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
def test_large_values_do_not_overflow(act: str) -> None:
    x = torch.tensor([[-1e4, -50.0, 50.0, 1e4, 1.0, 1.0, 1.0, 1.0]])
    assert_close(gated(x, act), oracle(x, act))


def test_no_rows() -> None:
    assert gated(torch.empty(0, 64), "silu").shape == (0, 32)
