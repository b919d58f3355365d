"""The kernels at real sizes on a GPU, against float64."""

from pathlib import Path

import pytest
import torch

from quire.backends.kernels import tuned, tuning
from quire.backends.kernels.activation import gated
from quire.backends.kernels.linear import linear
from quire.backends.kernels.norm import add_rms_norm, head_rms_norms, rms_norm
from quire.backends.kernels.small_product import Config, dot_product
from quire.backends.kernels.step_inputs import step_inputs
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
    x, residual = _random(rows, size + 64, dtype=dtype)[:, :size], _random(rows, size, dtype=dtype)
    weight = _random(size, dtype=dtype)
    assert_close(rms_norm(x, weight, 1e-5, pdl=pdl), oracles.rms_norm(x, weight, 1e-5))
    total = x + residual
    normed = add_rms_norm(x, residual, weight, 1e-5, pdl=pdl)
    assert torch.equal(residual, total)
    assert_close(normed, oracles.rms_norm(total, weight, 1e-5))


@pytest.mark.parametrize("pdl", PDL)
@pytest.mark.parametrize(
    ("tokens", "q_heads", "k_heads", "dim"), [(1, 32, 8, 128), (77, 16, 1, 80)]
)
def test_head_norms(tokens: int, q_heads: int, k_heads: int, dim: int, pdl: bool) -> None:
    qkv = _random(tokens, q_heads + 2 * k_heads, dim)
    q, k, v = qkv.split([q_heads, k_heads, k_heads], 1)
    weights = _random(2, dim)
    expected = [oracles.rms_norm(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True)]
    before = v.clone()
    head_rms_norms(q, k, *weights, 1e-6, pdl=pdl)
    assert_close(q, expected[0])
    assert_close(k, expected[1])
    assert torch.equal(v, before)


@pytest.mark.parametrize("pdl", PDL)
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "width"), [(1, 14336), (300, 4864)])
def test_gates(rows: int, width: int, act: str, pdl: bool) -> None:
    x = _random(rows, 2 * width)
    assert_close(gated(x, act, pdl=pdl), oracles.gated(x, act), steps=2)


def test_step_inputs() -> None:
    tokens = torch.randint(0, 2**31 - 1, (600, 4096), dtype=torch.int32, device="cuda")
    blocks = torch.randint(0, 2**20, (600, 256), dtype=torch.int32, device="cuda")
    slots = torch.randperm(600, device="cuda")[:512]
    starts = torch.randint(0, 4096, (512,), device="cuda")
    got = step_inputs(slots, starts, tokens, blocks, 16)
    assert torch.equal(got.token_ids, tokens[slots, starts].long())
    inside = blocks[slots, starts // 16].long() * 16 + starts % 16
    assert torch.equal(got.write_slots, inside)
    for row in range(0, 512, 37):
        count = int(starts[row]) // 16 + 1
        assert torch.equal(got.block_tables[row, :count], blocks[slots[row], :count])


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
    expected = oracles.product(x, weight, act=act, add=add)
    got = linear(x, weight, act=act, add=add, pdl=pdl)
    # The library rounds both halves before the gate.
    assert_close(got, expected, steps=2 if act is None else 5, accumulated=1e-2)


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
