"""Products as layers call them, by whatever way is chosen for their size."""

import gc
import weakref
from typing import Any

import pytest
import torch

from quire.backends.kernels.operations import TritonKernels
from quire.core.contracts.platform import GatedProduct
from quire.core.layers.linear import ProductLinear
from quire.core.layers.mlp import GatedMLP, TorchGate
from quire.core.layers.norm import TorchNorm
from quire.plugins.platforms.cuda import CUDA
from quire.quant.kernels import dense as writing
from quire.quant.kernels import products
from quire.quant.kernels.products import Float8Product, GroupedProduct, Int8Product
from quire.quant.kernels.tiles import Config
from quire.quant.weights import Float8Weight, Int8Weight
from tests.kernels import oracles
from tests.kernels.oracles import assert_close, product, random
from tests.kernels.quantized import dequantized, grouped

BF16 = torch.bfloat16
N, K = 96, 128
WAYS = {
    "after": Config("after", 32, 16, 2, 2),
    "folded": Config("folded", 64, 16, 4, 2),
    "dense": Config("dense"),
}


class Platform(CUDA):
    """A GPU's kernels where there is none."""

    def __init__(self, *, alike: bool = False) -> None:
        super().__init__()
        self._kernels = TritonKernels(alike=alike)

    def kernels(self) -> TritonKernels:
        return self._kernels


def _check(made: Any, dense: torch.Tensor, m: int, accumulated: float) -> None:
    """With each thing that may stand around it, and a view for an input."""
    k = dense.shape[1]
    x = random(m, k + 8, dtype=BF16)[:, :k]
    norm, gate = TorchNorm(random(k, dtype=BF16), 1e-5), TorchGate("silu")
    for around in (None, norm):
        expected = product(x, dense, norm=around and (around.weight, around.eps))
        assert_close(made(x, norm=around), expected, steps=2, accumulated=accumulated)
    add = random(m, len(dense), dtype=BF16)
    expected = product(x, dense, add=add)
    assert_close(made(x, add=add), expected, steps=3, accumulated=accumulated)
    add = random(m, len(dense) // 2, dtype=BF16)
    expected = product(x, dense, act="silu", add=add)
    assert_close(made(x, gate=gate, add=add), expected, steps=3, accumulated=2 * accumulated)
    if isinstance(made, GatedProduct):
        halves = random(m, 2 * k, dtype=BF16)
        expected = product(oracles.gated(halves, "silu"), dense)
        assert_close(made.behind_gate(halves, gate), expected, steps=2, accumulated=accumulated)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("n", [N, 72])
def test_grouped(n, order, way, monkeypatch) -> None:
    monkeypatch.setattr(products, "choose", lambda *_, **__: WAYS[way])
    monkeypatch.setattr(writing, "_CHUNK", 64 * K)
    weight = grouped(n, K, 64, order=order)
    _check(GroupedProduct(weight, None, BF16, Platform()), dequantized(weight), 5, 2e-2)


def _eight(kind: torch.dtype, block: int | None) -> tuple[Any, torch.Tensor]:
    values = (torch.randn(N, K) * 30).clamp(-127, 127)
    values = values.round().to(torch.int8) if kind is torch.int8 else values.to(kind)
    if block is None:
        scales = (torch.rand(N, 1) + 0.5) * 3e-3
        wide = scales
    else:
        scales = (torch.rand(-(-N // block), K // block) + 0.5) * 3e-3
        wide = scales.repeat_interleave(block, 0)[:N].repeat_interleave(block, 1)
    dense = values.double() * wide.double()
    if kind is torch.int8:
        return Int8Weight(values, scales), dense
    return Float8Weight(values, scales, block), dense


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("m", [1, 3, 9])
@pytest.mark.parametrize("block", [None, 32, 64])
def test_float8(block, m, native, monkeypatch) -> None:
    """Without units for 8-bit floats nine are many here, for which weights are written out."""
    monkeypatch.setattr(products, "_FEW", 8)
    capability = (9, 0) if native else (8, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    weight, dense = _eight(torch.float8_e4m3fn, block)
    made = Float8Product(weight, None, BF16, Platform())
    made._kind = "scaled"
    _check(made, dense, m, 0.2 if m > 1 and native else 2e-2)


@pytest.mark.parametrize("m", [1, 3])
def test_int8(m) -> None:
    weight, dense = _eight(torch.int8, None)
    # A row's largest entry sets the step that all others are rounded to.
    _check(Int8Product(weight, None, BF16, Platform()), dense, m, 0.2 if m > 1 else 2e-2)


@pytest.mark.parametrize("kind", ["grouped", "int8"])
def test_alike(kind) -> None:
    """Nothing of a token depends on the others, however many."""
    if kind == "grouped":
        made = GroupedProduct(grouped(N, K, 64), None, BF16, Platform(alike=True))
    else:
        made = Int8Product(_eight(torch.int8, None)[0], None, BF16, Platform(alike=True))
    x, gate = random(20, K, dtype=BF16), TorchGate("silu")
    whole = made(x, gate=gate)
    for count in (1, 7, 17):
        assert torch.equal(made(x[:count], gate=gate), whole[:count])


def test_bias() -> None:
    weight, bias = grouped(N, K, 64), random(N, dtype=BF16)
    x = random(4, K, dtype=BF16)
    got = GroupedProduct(weight, bias, BF16, Platform())(x)
    assert_close(got, product(x, dequantized(weight), bias=bias), steps=2)


def test_what_kernels_do_not_take() -> None:
    with pytest.raises(ValueError, match="no kernels for"):
        GroupedProduct(grouped(N, K, 64), None, torch.float32, Platform())
    weight, _ = _eight(torch.float8_e4m3fn, 32)
    odd = Float8Weight(weight.values, weight.scales, 48)
    with pytest.raises(ValueError, match="squares of 48"):
        Float8Product(odd, None, BF16, Platform())


def test_what_is_shared_ends_with_the_last_product(monkeypatch) -> None:
    """128 MiB that a device would miss after the engine has ended."""
    monkeypatch.setattr(products, "choose", lambda *_, **__: WAYS["dense"])
    made = [GroupedProduct(grouped(n, K, 128), None, BF16, Platform()) for n in (32, 64)]
    assert made[0]._scratch is made[1]._scratch
    made[0](random(3, K, dtype=BF16))
    # As large as the largest until now; its place stays, so that more is another's.
    memory = made[0]._scratch._memory
    assert memory.numel() == 64 * K
    made += [GroupedProduct(grouped(n, K, 128), None, BF16, Platform()) for n in (64, N)]
    assert made[2]._scratch is made[0]._scratch is not made[3]._scratch
    made[3](random(3, K, dtype=BF16))
    assert made[0]._scratch._memory is memory
    kept = [weakref.ref(each._scratch._memory) for each in (made[0], made[3])]
    del memory, made[:3]
    gc.collect()
    assert [each() is not None for each in kept] == [False, True]
    made.clear()
    gc.collect()
    assert kept[1]() is None


class _Linear(ProductLinear):
    """A holder of a product that is there from the start."""

    def __init__(self, product: Any) -> None:
        self._product = product

    def names(self) -> set[str]:
        return set()

    def load(self, name: str, tensor: torch.Tensor) -> None:
        raise NotImplementedError

    def make_up(self, generator: torch.Generator) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("count", [3, 70])
def test_a_gate_goes_where_it_costs_least(count, monkeypatch) -> None:
    """Into the product before it for few tokens, into the rounding behind it for many."""
    wide, dense = _eight(torch.int8, None)
    values = torch.randint(-127, 128, (K, N // 2), dtype=torch.int8)
    scales = (torch.rand(K, 1) + 0.5) * 3e-3
    narrow = Int8Product(Int8Weight(values, scales), None, BF16, Platform())
    mlp = GatedMLP.__new__(GatedMLP)
    mlp._gate_up = _Linear(Int8Product(wide, None, BF16, Platform()))
    mlp._down, mlp._gate = _Linear(narrow), TorchGate("silu")
    taken = []
    rounding = products.quantize
    monkeypatch.setattr(
        products, "quantize", lambda *a, **b: taken.append(b["gate"]) or rounding(*a, **b)
    )
    x = random(count, K, dtype=BF16)
    hidden = product(x, dense, act="silu")
    expected = product(hidden, values.double() * scales.double())
    assert_close(mlp(x), expected, steps=4, accumulated=0.3)
    assert [gate is not None for gate in taken] == [False, count > 64]
