"""Small products against float64."""

import itertools
from typing import Any

import pytest
import torch

from quire.backends.kernels.conclusion import counters
from quire.backends.kernels.small_product import Config, dot_product, vector_product
from tests.kernels.oracles import assert_close, poison, product, random

VECTOR = [Config("vector", 2, 128, 1), Config("vector", 4, 64, 1), Config("vector", 1, 512, 1)]
DOT = [
    Config("dot", 16, 32, 4, 2, 1),
    Config("dot", 32, 64, 4, 3, 3),
    Config("dot", 16, 32, 4, 2, 4),
]
DTYPES = [torch.bfloat16, torch.float16]


def _around(n: int, act: str | None, dtype: torch.dtype, **wanted: bool) -> dict[str, Any]:
    """Bias and activation for a product of n outputs, each if wanted."""
    around: dict[str, Any] = {"act": act}
    if wanted.get("bias"):
        around["bias"] = random(n if act is None else 2 * n, dtype=dtype)
    return around


def _check(form: Any, m: int, n: int, k: int, config: Config, dtype: torch.dtype, **wanted) -> None:
    act = wanted.pop("act", None)
    x = random(m, k + 16, dtype=dtype)[:, :k]
    weight = random(n if act is None else 2 * n, k, dtype=dtype, scale=k**-0.5)
    around = _around(n, act, dtype, **wanted)
    residual = poison(torch.empty(m, n + 4, dtype=dtype))
    add = residual[:, :n].copy_(random(m, n, dtype=dtype)) if wanted.get("add") else None
    expected = product(x, weight, add=add, **around)
    got = form(x, weight, config, add=add, **around)
    assert_close(got, expected, steps=2, accumulated=1e-3 if act else 1e-5)
    assert residual[:, n:].isnan().all()
    if add is not None:
        assert got is add


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", VECTOR, ids=str)
@pytest.mark.parametrize(("n", "k"), [(8, 256), (13, 384), (3, 200)])
def test_vector(n: int, k: int, config: Config, dtype: torch.dtype) -> None:
    _check(vector_product, 1, n, k, config, dtype)


@pytest.mark.parametrize("act", [None, "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("bias", "add"), list(itertools.product([False, True], repeat=2)))
def test_vector_fusions(bias: bool, add: bool, act: str | None) -> None:
    _check(vector_product, 1, 7, 320, VECTOR[0], torch.bfloat16, bias=bias, add=add, act=act)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", DOT, ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(2, 16, 64), (17, 40, 160), (64, 33, 200), (70, 16, 96)])
def test_dot(m: int, n: int, k: int, config: Config, dtype: torch.dtype) -> None:
    _check(dot_product, m, n, k, config, dtype)


@pytest.mark.parametrize("config", DOT[:2], ids=str)
@pytest.mark.parametrize("act", [None, "silu", "gelu_tanh"])
@pytest.mark.parametrize(("bias", "add"), [(True, False), (False, True), (True, True)])
def test_dot_fusions(config: Config, bias: bool, add: bool, act: str | None) -> None:
    _check(dot_product, 5, 24, 96, config, torch.bfloat16, bias=bias, add=add, act=act)


def test_more_parts_than_tiles_of_depth() -> None:
    _check(dot_product, 3, 16, 64, Config("dot", 16, 32, 4, 2, 5), torch.bfloat16)


@pytest.mark.parametrize(("k", "depth"), [(64, 64), (200, 256), (160, 64), (96, 32)])
@pytest.mark.parametrize("act", [None, "silu"])
def test_one_tile_of_the_depth_a_program(act: str | None, k: int, depth: int) -> None:
    config = Config("dot", 16, depth, 4, 1, -(-k // depth))
    for m, n in ((2, 16), (17, 40)):
        _check(dot_product, m, n, k, config, torch.bfloat16, act=act, bias=True, add=True)
    x, weight = random(40, k, dtype=torch.bfloat16), random(48, k, dtype=torch.bfloat16)
    whole = dot_product(x, weight, config)
    assert all(torch.equal(dot_product(x[:n], weight, config), whole[:n]) for n in (1, 17))


@pytest.mark.parametrize("split", [1, 3])
def test_one_tile_a_program_is_not_the_depth(split: int) -> None:
    x = torch.empty(1, 64, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=f"not {split} tiles of 32"):
        dot_product(x, x, Config("dot", 16, 32, 4, 1, split))


def test_counters_are_zero_between_launches() -> None:
    for _ in range(3):
        _check(dot_product, 3, 48, 128, DOT[2], torch.bfloat16)
        assert not counters(torch.device("cpu"), 1).any()


@pytest.mark.parametrize("form", ["vector", "dot"])
def test_adding_to_its_own_input_leaves_the_input(form: str) -> None:
    """Programs that finish early must not write what others still read."""
    x, weight = random(1, 64, dtype=torch.bfloat16), random(64, 64, dtype=torch.bfloat16)
    before = x.clone()
    multiply, config = (vector_product, VECTOR[1]) if form == "vector" else (dot_product, DOT[0])
    got = multiply(x, weight, config, add=x)
    assert torch.equal(x, before)
    assert_close(got, product(x, weight, add=x), steps=2)


@pytest.mark.parametrize("config", DOT, ids=str)
def test_a_token_does_not_depend_on_the_others(config: Config) -> None:
    x, weight = random(64, 160, dtype=torch.bfloat16), random(48, 160, dtype=torch.bfloat16)
    whole = dot_product(x, weight, config)
    for count in (1, 2, 17, 40):
        assert torch.equal(dot_product(x[:count], weight, config), whole[:count])


def test_too_many_tiles_are_refused() -> None:
    x = torch.empty(1, 32, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="tiles cannot share"):
        dot_product(x, x.expand(16 * 5000, 32), DOT[2])


def test_no_tokens() -> None:
    x, weight = torch.empty(0, 64).bfloat16(), torch.empty(32, 64).bfloat16()
    assert dot_product(x, weight, DOT[0]).shape == (0, 32)
