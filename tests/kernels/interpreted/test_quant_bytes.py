"""8-bit weights and activations against float64."""

import pytest
import torch

from quire.backends.kernels.operations import TritonKernels
from quire.core.layers.mlp import TorchGate
from quire.core.layers.norm import TorchNorm
from quire.quant.kernels import eight_bit, scaled
from quire.quant.kernels.dense import write_out
from quire.quant.kernels.packed import Packed
from quire.quant.kernels.quantize import gather, quantize
from quire.quant.kernels.tiles import Config
from tests.kernels import oracles
from tests.kernels.oracles import assert_close, poison, product, random
from tests.kernels.quantized import dequantized, grouped

BF16, FP16 = torch.bfloat16, torch.float16
FP8 = torch.float8_e4m3fn
SMALL = Config("after", 32, 8, 2, 2)
SPLIT = Config("after", 64, 16, 4, 3, 3)
TALL = Config("after", 64, 64, 4, 2, 2)
WIDE = Config("after", 128, 32, 4, 2)
VECTOR = Config("vector", 2, warps=1)
KERNELS = TritonKernels()


def _eight(n: int, k: int, kind: torch.dtype, block: int | None):
    """Values, scales, and what they stand for."""
    if kind is torch.int8:
        values = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    else:
        values = random(n, k, dtype=torch.float32, scale=30).clamp(-448, 448).to(FP8)
    if block is None:
        scales = (torch.rand(n, 1) + 0.5) / 64 * k**-0.5
        return values, scales, values.double() * scales.double()
    scales = (torch.rand(-(-n // block), -(-k // block)) + 0.5) / 64 * k**-0.5
    wide = scales.double().repeat_interleave(block, 0).repeat_interleave(block, 1)[:n, :k]
    return values, scales, values.double() * wide


@pytest.mark.parametrize("kind", [torch.int8, FP8, torch.uint8])
@pytest.mark.parametrize("config", [SMALL, SPLIT], ids=str)
@pytest.mark.parametrize("block", [None, 64])
@pytest.mark.parametrize(("m", "n", "k", "dtype"), [(1, 64, 256, FP16), (18, 40, 200, BF16)])
def test_sixteen_bit_activations(m, n, k, dtype, block, config, kind) -> None:
    values, scales, dense = _eight(n, k, FP8 if kind is torch.uint8 else kind, block)
    values = values.view(kind)
    x = random(m, k + 16, dtype=dtype)[:, :k]
    got = eight_bit.multiply(x, values, scales, config, KERNELS, block=block, depth=64)
    assert_close(got, product(x, dense), steps=2)


@pytest.mark.parametrize("kind", [torch.int8, FP8, torch.uint8])
@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("k", [1024, 800, 96])
def test_one_token(k, block, kind) -> None:
    values, scales, dense = _eight(41, k, FP8 if kind is torch.uint8 else kind, block)
    x = random(1, k, dtype=BF16)
    got = eight_bit.multiply(x, values.view(kind), scales, VECTOR, KERNELS, block=block)
    assert_close(got, product(x, dense), steps=2)


@pytest.mark.parametrize("block", [None, 64])
@pytest.mark.parametrize("act", [None, "silu"])
@pytest.mark.parametrize("config", [SPLIT, VECTOR], ids=str)
def test_what_stands_around(config, act, block) -> None:
    m = 1 if config is VECTOR else 3
    values, scales, dense = _eight(128, 192, FP8, block)
    x = random(m, 192, dtype=BF16)
    bias = random(128, dtype=BF16)
    width = 128 if act is None else 64
    residual = poison(torch.empty(m, width + 8, dtype=BF16))
    add = residual[:, :width].copy_(random(m, width, dtype=BF16))
    expected = product(x, dense, bias=bias, act=act, add=add)
    got = eight_bit.multiply(
        x, values, scales, config, KERNELS, block=block, depth=64, bias=bias, act=act, add=add
    )
    assert got is add
    assert_close(got, expected, steps=2, accumulated=1e-3 if act else 1e-5)
    assert residual[:, width:].isnan().all()


@pytest.mark.parametrize("kind", [torch.int8, FP8])
@pytest.mark.parametrize("config", [SMALL, SPLIT, TALL, WIDE], ids=str)
@pytest.mark.parametrize("block", [None, 64])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 256), (18, 40, 200), (70, 136, 192)])
def test_eight_bit_activations(m, n, k, block, config, kind) -> None:
    values, scales, dense = _eight(n, k, kind, block)
    x, x_scales = quantize(random(m, k, dtype=BF16), kind, KERNELS, block=block)
    wide = x_scales.double().repeat_interleave(block or k, 1)[:, :k]
    bias, add = random(n, dtype=BF16), random(m, n, dtype=BF16)
    expected = product(x.double() * wide, dense, bias=bias, add=add)
    got = scaled.multiply(
        x, x_scales, values, scales, config, KERNELS, BF16,
        block=block, depth=64, bias=bias, add=add,
    )  # fmt: skip
    assert got is add
    assert_close(got, expected, steps=2)


@pytest.mark.parametrize("kind", [torch.int8, FP8])
@pytest.mark.parametrize("config", [SMALL, SPLIT, TALL], ids=str)
def test_eight_bit_activations_behind_a_gate(config, kind) -> None:
    m, n, k, act = 18, 40, 200, "silu"
    values, scales, dense = _eight(2 * n, k, kind, None)
    x, x_scales = quantize(random(m, k, dtype=BF16), kind, KERNELS)
    bias, residual = random(2 * n, dtype=BF16), poison(torch.empty(m, n + 8, dtype=BF16))
    add = residual[:, :n].copy_(random(m, n, dtype=BF16))
    expected = product(x.double() * x_scales.double(), dense, bias=bias, act=act, add=add)
    got = scaled.multiply(
        x, x_scales, values, scales, config, KERNELS, BF16,
        depth=64, bias=bias, act=act, add=add,
    )  # fmt: skip
    assert got is add
    assert_close(got, expected, steps=2, accumulated=1e-3)
    assert residual[:, n:].isnan().all()


@pytest.mark.parametrize("kind", [torch.int8, FP8])
@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("before", [None, "norm", "gate"])
def test_quantizing(before, block, kind) -> None:
    k = 200
    x = random(5, k if before != "gate" else 2 * k, dtype=BF16)
    x[3] = 0
    expected, around = x.double(), {}
    if before == "norm":
        around["norm"] = norm = TorchNorm(random(k, dtype=BF16), 1e-5)
        expected = oracles.rms_norm(x, norm.weight, norm.eps)
    elif before == "gate":
        around["gate"] = TorchGate("silu")
        expected = oracles.gated(x, "silu")
    values, scales = quantize(x, kind, KERNELS, block=block, **around)
    wide = scales.double().repeat_interleave(block or k, 1)[:, :k]
    parts = torch.split(expected, block or k, 1)
    largest = torch.cat([part.abs().amax(1, keepdim=True) for part in parts], 1)
    limit = 127 if kind is torch.int8 else 448
    assert torch.allclose(scales.double() * limit, largest, rtol=2**-7, atol=1e-6)
    error = (values.double() * wide - expected).abs()
    rounding = wide * 0.5 if kind is torch.int8 else expected.abs() * 2**-4 + wide * 2**-10
    assert (error <= rounding * 1.01 + expected.abs() * 2**-7).all()
    assert values.double().abs().max() == limit


@pytest.mark.parametrize("kind", [torch.int8, FP8])
@pytest.mark.parametrize(("block", "given"), [(None, None), (None, torch.tensor(0.01)), (32, None)])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(broken: float, block, given, kind) -> None:
    """Clipped to the largest value it would come out of a product as an answer like any other."""
    x = random(4, 64, dtype=BF16)
    whole = quantize(x, kind, KERNELS, block=block, scale=given)
    x[1, 40] = broken
    found = quantize(x, kind, KERNELS, block=block, scale=given)
    wide = found[1].double().repeat_interleave(block or 64, 1)
    assert not (found[0].double() * wide)[1].isfinite().all()
    for got, expected in zip(found, whole, strict=True):
        assert torch.equal(got[[0, 2, 3]].float(), expected[[0, 2, 3]].float())


def test_a_given_scale_clips() -> None:
    x = random(4, 64, dtype=BF16)
    values, scales = quantize(x, FP8, KERNELS, scale=torch.tensor(0.001))
    assert (scales == 0.001).all()
    expected = (x.float() / 0.001).clamp(-448, 448).to(FP8)
    assert torch.equal(values.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("k", [200, 2100])
@pytest.mark.parametrize("rows", [3, 9])
def test_gathering(rows, k, norm) -> None:
    x, order = random(rows, k, dtype=BF16), torch.randperm(k).int()
    around = TorchNorm(random(k, dtype=BF16), 1e-5) if norm else None
    expected = x.double() if around is None else oracles.rms_norm(x, around.weight, 1e-5)
    assert_close(gather(x, order, KERNELS, norm=around), expected[:, order.long()])


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("bits", "group"), [(4, 128), (4, 64), (8, 32), (3, 256)])
def test_writing_out(bits, group, dtype) -> None:
    weight = grouped(72, 256, group, bits=bits)
    packed = Packed.of(weight, dtype)
    out = torch.empty(64, 256, dtype=dtype)
    dense = dequantized(weight)
    write_out(packed, out, KERNELS)
    assert_close(out, dense[:64])
    write_out(packed, out[:8], KERNELS, first=64)
    assert_close(out[:8], dense[64:])
