"""The kernels at real sizes on a GPU, against float64."""

from pathlib import Path

import pytest
import torch

from quire.backends.kernels import tuned, tuning
from quire.backends.kernels.activation import gated
from quire.backends.kernels.linear import linear
from quire.backends.kernels.norm import rms_norm
from quire.backends.kernels.small_product import Config, dot_product
from quire.backends.kernels.tuned import BUCKETS
from quire.core.contracts.platform import ProductShape
from tests.kernels import oracles
from tests.kernels.oracles import assert_close, random

pytestmark = pytest.mark.gpu

BF16, FP16 = torch.bfloat16, torch.float16
SHAPES = [(6144, 4096), (4096, 14336), (1152, 896), (4096, 1544), (151936, 1024)]
DOT = Config("dot", 64, 128, 4, 4, 4)
# Hopper's launches may overlap; elsewhere the flag must stay off.
OVERLAPS = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
PDL = [False, pytest.param(True, marks=pytest.mark.skipif(not OVERLAPS, reason="below 9.0"))]


def _random(*shape: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> torch.Tensor:
    return random(*shape, dtype=dtype, device="cuda", scale=scale)


@pytest.mark.parametrize("pdl", PDL)
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("rows", "size"), [(1, 4096), (64, 896), (1000, 5120), (3, 16384)])
def test_norms(rows: int, size: int, dtype: torch.dtype, pdl: bool) -> None:
    x, weight = _random(rows, size + 64, dtype=dtype)[:, :size], _random(size, dtype=dtype)
    assert_close(rms_norm(x, weight, 1e-5, pdl=pdl), oracles.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("pdl", PDL)
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "width"), [(1, 14336), (300, 4864)])
def test_gates(rows: int, width: int, act: str, pdl: bool) -> None:
    x = _random(rows, 2 * width)
    assert_close(gated(x, act, pdl=pdl), oracles.gated(x, act), steps=2)


@pytest.mark.parametrize("pdl", PDL)
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("m", [*BUCKETS, 7, 65])
@pytest.mark.parametrize(
    ("n", "k", "dtype"), [*((n, k, BF16) for n, k in SHAPES), (1152, 896, FP16)]
)
def test_linear(n: int, k: int, dtype: torch.dtype, m: int, act: str | None, pdl: bool) -> None:
    """By the choices of this GPU."""
    if act is not None:
        n = min(n, 16384)
    rows = n if act is None else 2 * n
    x, weight = _random(m, k, dtype=dtype), _random(rows, k, dtype=dtype, scale=k**-0.5)
    add = _random(m, n, dtype=dtype)
    y = oracles.product(x, weight)
    rounded = y.abs()
    if act is not None:
        # The library rounds both halves before the gate, which makes an error of the gate's half
        # up to 1 + |gate| times as large.
        gate = y.chunk(2, -1)[0]
        y = oracles.gated(y, act)
        rounded = y.abs() * (3 + gate.abs())
    expected = y + add.double()
    got = linear(x, weight, act=act, add=add, pdl=pdl)
    assert_close(got, expected, accumulated=1e-2, size=rounded + expected.abs())


@pytest.mark.parametrize("pdl", PDL)
def test_a_shared_depth_gives_the_same_bits_every_time(pdl: bool) -> None:
    x, weight = _random(64, 14336), _random(4096, 14336, scale=0.02)
    first = dot_product(x, weight, DOT, pdl=pdl)
    assert all(torch.equal(dot_product(x, weight, DOT, pdl=pdl), first) for _ in range(100))


@pytest.mark.parametrize("config", [DOT, DOT._replace(split=1), DOT._replace(depth=64)], ids=str)
def test_a_token_does_not_depend_on_the_others(config: Config) -> None:
    x, weight = _random(200, 4096), _random(4096, 4096, scale=0.02)
    whole = dot_product(x, weight, config)
    for count in (1, 2, 16, 17, 33, 199):
        assert torch.equal(dot_product(x[:count], weight, config), whole[:count])


@pytest.mark.parametrize(("n", "k"), [(4096, 14336), (1152, 896)])
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("pdl", PDL)
def test_a_token_does_not_depend_on_how_many_there_are(
    n: int, k: int, act: str | None, pdl: bool
) -> None:
    x, weight = _random(1000, k), _random(n, k, scale=k**-0.5)
    whole = linear(x, weight, act=act, pdl=pdl, alike=True)
    y = oracles.product(x, weight)
    assert_close(whole, y if act is None else oracles.gated(y, act), accumulated=1e-2, steps=4)
    for count in (1, 2, 16, 17, 33, 64, 65, 700):
        assert torch.equal(linear(x[:count], weight, act=act, pdl=pdl, alike=True), whole[:count])


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("pdl", PDL)
def test_a_graph_of_dependent_layers(pdl: bool, m: int) -> None:
    """Replayed on fresh inputs, with launches that overlap, it computes what one at a time do."""
    qkv, out = _random(4096, 1024, scale=0.03), _random(1024, 4096, scale=0.01)
    gate_up, down = _random(7168, 1024, scale=0.03), _random(1024, 3584, scale=0.01)
    g = _random(1024)

    def step(residual: torch.Tensor, pdl: bool) -> torch.Tensor:
        for _ in range(8):
            y = linear(residual, qkv, norm=(g, 1e-5), pdl=pdl)
            residual = linear(y, out, add=residual, pdl=pdl)
            y = linear(residual, gate_up, norm=(g, 1e-5), act="silu", pdl=pdl)
            residual = linear(y, down, add=residual, pdl=pdl)
        return rms_norm(residual, g, 1e-5, pdl=pdl)

    static = _random(m, 1024)
    step(static.clone(), pdl)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(static.clone(), pdl)
    for _ in range(20):
        fresh = _random(m, 1024)
        static.copy_(fresh)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(result, step(fresh, pdl=False))


def test_tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was measured is written, kept beside what is measured later, and used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "candidates", lambda *_: [Config("dot", 64, 128, 4, 3, 2)])
    device = torch.device("cuda", torch.cuda.current_device())
    for shape in (ProductShape(1024, 2048), ProductShape(2048, 1024, gated=True)):
        *lines, written = tuning.tune([shape], None, device)
        assert len(lines) == len(BUCKETS)
    path = tuned.own_path(torch.cuda.get_device_name(device))
    assert written == f"written to {path}"
    entries = tuned.read(path).products
    assert {entry.key for entry in entries} == {
        *((1024, 2048, False, m) for m in BUCKETS),
        *((2048, 1024, True, m) for m in BUCKETS),
    }
    tuned._tables.cache_clear()
    tuned._choose.cache_clear()
    try:
        for entry in entries:
            x = torch.empty(1, dtype=BF16, device=device)
            chosen = tuned.choose(entry.m, entry.n, entry.k, gated=entry.gated, x=x)
            assert chosen == entry.config
    finally:
        tuned._tables.cache_clear()
        tuned._choose.cache_clear()
