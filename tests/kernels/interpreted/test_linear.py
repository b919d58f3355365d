"""A layer's product by every way it may go, against float64."""

import pytest
import torch

from quire.backends.kernels.linear import linear
from quire.backends.kernels.small_product import Config
from quire.backends.kernels.tuned import Entry, Table, use
from tests.kernels.oracles import assert_close, product, random

CONFIGS = [
    Config("vector", 2, 128, 1),
    Config("dot", 16, 32, 4, 2, 2),
    Config("library"),
]


@pytest.fixture(autouse=True)
def _shipped_again():
    yield
    use(None)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.form)
@pytest.mark.parametrize("act", [None, "gelu_pytorch_tanh"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("add", ["", "other", "x"])
def test_linear(add: str, norm: bool, act: str | None, config: Config) -> None:
    size = 64
    m = 1 if config.form == "vector" else 5
    entry = Entry(n=size, k=size, m=1 if m == 1 else 16, gated=act is not None, config=config)
    use(Table(device="none", products=[entry]))
    dtype = torch.bfloat16
    rows = size if act is None else 2 * size
    x, weight = random(m, size, dtype=dtype), random(rows, size, dtype=dtype, scale=0.1)
    around = {
        "bias": random(rows, dtype=dtype) if act or add != "other" else None,
        "norm": (random(size, dtype=dtype), 1e-5) if norm else None,
    }
    addend = {"": None, "other": random(m, size, dtype=dtype), "x": x}[add]
    name = act and act.replace("_pytorch", "")
    expected = product(x, weight, act=name, add=addend, **around)
    got = linear(x, weight, act=act, add=addend, **around)
    # The library rounds between its kernels, and so does a norm before a product.
    loose = norm or config.form == "library"
    assert_close(got, expected, steps=4, accumulated=2e-2 if loose else 1e-3)
    if add == "other":
        assert got is addend


@pytest.mark.parametrize("act", [None, "silu"])
def test_products_that_are_alike(act: str | None) -> None:
    x, weight = random(70, 136, dtype=torch.bfloat16), random(96, 136, dtype=torch.bfloat16)
    whole = linear(x, weight, act=act, alike=True)
    assert_close(whole, product(x, weight, act=act), steps=4, accumulated=1e-2)
    for count in (1, 17, 33, 64):
        assert torch.equal(linear(x[:count], weight, act=act, alike=True), whole[:count])
