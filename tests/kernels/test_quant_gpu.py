"""Quantized products at real and at odd sizes on a GPU, against float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from quire.core.contracts.platform import GatedProduct
from quire.plugins.platforms.cuda import CUDA
from quire.quant.kernels import tuned
from quire.quant.kernels.products import Float8Product, GroupedProduct, Int8Product
from quire.quant.weights import Float8Weight, Int8Weight
from tests.kernels.oracles import product, random, rms_norm
from tests.kernels.quantized import dequantized, grouped

pytestmark = pytest.mark.gpu

BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
SHAPES = [(6144, 4096), (4096, 14336), (1000, 1536), (72, 896), (28672, 4096)]
TOKENS = [1, 3, 16, 33, 64, 65, 130, 300, 513, 2100]


def _random(*shape: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> torch.Tensor:
    return random(*shape, dtype=dtype, device="cuda", scale=scale)


def _eight(n: int, k: int, kind: torch.dtype, block: int | None) -> tuple[Any, torch.Tensor]:
    values = (torch.randn(n, k, device="cuda") * 30).clamp(-127, 127)
    values = values.round().to(torch.int8) if kind is torch.int8 else values.to(kind)
    if block is None:
        scales = (torch.rand(n, 1, device="cuda") + 0.5) * 3e-3
        wide = scales
    else:
        scales = (torch.rand(-(-n // block), -(-k // block), device="cuda") + 0.5) * 3e-3
        wide = scales.repeat_interleave(block, 0)[:n].repeat_interleave(block, 1)[:, :k]
    dense = values.double() * wide.double()
    if kind is torch.int8:
        return Int8Weight(values, scales), dense
    return Float8Weight(values, scales, block), dense


def _check(
    made: Callable[..., torch.Tensor],
    dense: torch.Tensor,
    m: int,
    limit: float,
    eight: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """With a view for an input, a norm, a gate and an addition; the error of all together.

    Args:
        made: the product.
        dense: float64 [N, K].
        m: tokens.
        limit: of the error's norm over the result's, where nothing is gated.
        eight: rounds inputs to 8 bits, in float64, if the product does so; it may then lose a
            third more than they do.
    """
    n, k = dense.shape
    dtype = made._bias.dtype  # type: ignore[attr-defined]
    x = _random(m, k + 64, dtype=dtype)[:, :k]
    platform = CUDA()
    norm, gate = platform.norm(_random(k, dtype=dtype), 1e-5), platform.gate("silu")
    bias = made._bias  # type: ignore[attr-defined]
    for width, wanted in ((n, {"norm": norm}), (n, {}), (n // 2, {"gate": gate})):
        add = _random(m, width, dtype=dtype)
        normed = rms_norm(x, norm.weight, norm.eps) if "norm" in wanted else x.double()
        act = "silu" if "gate" in wanted else None
        expected = product(normed, dense, bias=bias, add=add, act=act)
        most = limit if act is None else 1.5 * limit
        if eight is not None:
            ideal = product(eight(normed), dense, bias=bias, add=add, act=act)
            most += 1.33 * float((ideal - expected).norm() / expected.norm())
        got = made(x, add=add, **wanted)
        error = (got.double() - expected).norm() / expected.norm()
        assert error < most, f"{m} tokens, {wanted}: {float(error):.2e} of at most {most:.2e}"


def _eight_bits(x: torch.Tensor, kind: torch.dtype, block: int | None) -> torch.Tensor:
    """Rounded, with a scale for each token's block, float64."""
    parts = x.view(len(x), -1, block or x.shape[1])
    most = 127.0 if kind is torch.int8 else torch.finfo(kind).max
    scales = parts.abs().amax(-1, keepdim=True) / most
    codes = parts / scales
    codes = codes.round() if kind is torch.int8 else codes.float().to(kind).double()
    return (codes * scales).view_as(x)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(
    ("bits", "group", "zeros", "order"),
    [(4, 128, True, False), (4, 64, False, True), (4, 32, True, False), (8, 32, True, True)],
)
@pytest.mark.parametrize(("n", "k"), SHAPES[:4])
def test_grouped(n, k, bits, group, zeros, order, dtype) -> None:
    weight = grouped(n, k, group, bits=bits, zeros=zeros, order=order, device="cuda")
    dense = dequantized(weight)
    made = GroupedProduct(weight, _random(n, dtype=dtype), dtype, CUDA())
    for m in TOKENS:
        _check(made, dense, m, 6e-3 if dtype is BF16 else 2e-3)


@pytest.mark.parametrize("block", [None, 128])
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("n", "k"), SHAPES[:4])
def test_float8(n, k, dtype, block) -> None:
    weight, dense = _eight(n, k, FP8, block)
    made = Float8Product(weight, _random(n, dtype=dtype), dtype, CUDA())
    for m in TOKENS:
        eight = None if m == 1 else partial(_eight_bits, kind=FP8, block=block)
        _check(made, dense, m, 6e-3, eight)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("n", "k"), SHAPES[:4])
def test_int8(n, k, dtype) -> None:
    weight, dense = _eight(n, k, torch.int8, None)
    made = Int8Product(weight, _random(n, dtype=dtype), dtype, CUDA())
    for m in TOKENS:
        eight = None if m == 1 else partial(_eight_bits, kind=torch.int8, block=None)
        _check(made, dense, m, 6e-3, eight)


@pytest.mark.parametrize("kind", ["grouped", "float8", "block", "int8"])
def test_what_was_measured(kind) -> None:
    """The choices of this GPU at the sizes that they were measured at, captured and replayed."""
    n, k = SHAPES[4]
    if kind == "grouped":
        weight: Any = grouped(n, k, 128, device="cuda")
        made: Any = GroupedProduct(weight, None, BF16, CUDA())
    elif kind == "int8":
        made = Int8Product(_eight(n, k, torch.int8, None)[0], None, BF16, CUDA())
    else:
        weight = _eight(n, k, FP8, 128 if kind == "block" else None)[0]
        made = Float8Product(weight, None, BF16, CUDA())
    gate = CUDA().gate("silu")
    if isinstance(made, GatedProduct):
        halves = _random(300, 2 * k)
        assert made.takes_gate(300)
        inside, outside = made.behind_gate(halves, gate), made(gate(halves))
        torch.testing.assert_close(inside, outside, rtol=1e-2, atol=1e-2 * float(outside.std()))
    for m in tuned.BUCKETS:
        x = _random(m, k)
        plain = made(x, gate=gate)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            captured = made(x, gate=gate)
        for _ in range(3):
            captured.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(captured, plain), f"{m} tokens"


@pytest.mark.parametrize("kind", ["grouped", "int8"])
def test_alike(kind) -> None:
    platform = CUDA()
    platform.setup(deterministic=True)
    if kind == "grouped":
        made: Any = GroupedProduct(grouped(1024, 2048, 128, device="cuda"), None, BF16, platform)
    else:
        made = Int8Product(_eight(1024, 2048, torch.int8, None)[0], None, BF16, platform)
    x = _random(300, 2048)
    whole = made(x)
    for count in (1, 2, 17, 64, 65, 299):
        assert torch.equal(made(x[:count]), whole[:count])
