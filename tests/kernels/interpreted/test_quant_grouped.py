"""Products with grouped integers against float64."""

import pytest
import torch

from quire.backends.kernels.operations import TritonKernels
from quire.quant.kernels.grouped import multiply
from quire.quant.kernels.layout import pack, unpack
from quire.quant.kernels.packed import Packed
from quire.quant.kernels.tiles import Config
from tests.kernels.oracles import assert_close, poison, product, random
from tests.kernels.quantized import dequantized, grouped

BF16, FP16 = torch.bfloat16, torch.float16
SMALL = Config("after", 32, 8, 2, 2)
SPLIT = Config("after", 64, 16, 4, 3, 3)
HELD = Config("after", 32, 8, 2, 2, 2, held=2)
APART = Config("apart", 16, 1, 4, 2)
BOTH = Config("apart", 16, 1, 2, 1, 2)
FOLDED = Config("folded", 64, 32, 4, 2)


def _check(m, n, k, group, config=SMALL, dtype=BF16, **wanted) -> None:
    act, bias, add = (wanted.pop(name, None) for name in ("act", "bias", "add"))
    weight = grouped(n if act is None else 2 * n, k, group, **wanted)
    packed = Packed.of(weight, dtype)
    x = random(m, k + 16, dtype=dtype)[:, :k]
    bias = random(weight.codes.shape[0], dtype=dtype) if bias else None
    residual = poison(torch.empty(m, n + 4, dtype=dtype))
    add = residual[:, :n].copy_(random(m, n, dtype=dtype)) if add else None
    expected = product(x, dequantized(weight), bias=bias, act=act, add=add)
    got = multiply(x, packed, config, TritonKernels(), bias=bias, act=act, add=add)
    # Folded operands are rounded before they are multiplied.
    accumulated = 1e-5 if config.form == "after" else 2e-2 if dtype is BF16 else 3e-3
    assert_close(got, expected, steps=2, accumulated=max(accumulated, 1e-3 if act else 0))
    assert residual[:, n:].isnan().all()
    assert add is None or got is add


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("n", "k"), [(16, 128), (40, 200), (8, 64)])
def test_packing_keeps_every_code(n: int, k: int, bits: int) -> None:
    codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, bits, 128), bits, n, k, 128), codes)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("config", [SMALL, SPLIT, HELD, FOLDED, APART, BOTH], ids=str)
@pytest.mark.parametrize(("m", "n", "k", "group"), [(1, 32, 256, 128), (17, 72, 384, 128)])
def test_four_bits(m, n, k, group, config, dtype) -> None:
    # A program apart takes one token, so few tokens are as good as many.
    _check(min(m, 3) if config.form == "apart" else m, n, k, group, config, dtype)


@pytest.mark.parametrize("config", [HELD, APART], ids=str)
@pytest.mark.parametrize(
    ("k", "group"), [(192, 64), (160, 32), (200, 200), (512, 256), (192, 96), (576, 64)]
)
@pytest.mark.parametrize("zeros", [False, True])
def test_groups(k, group, zeros, config) -> None:
    _check(3, 40, k, group, config, zeros=zeros)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_bits(bits, zeros, dtype) -> None:
    for config in (SMALL, APART):
        _check(5, 24, 256, 128, config, dtype, bits=bits, zeros=zeros)


@pytest.mark.parametrize("scales", [BF16, torch.float32])
def test_scales_of_other_types(scales) -> None:
    _check(2, 24, 128, 64, scales=scales)
    _check(2, 24, 128, 64, FOLDED, scales=scales)


@pytest.mark.parametrize("act", [None, "silu", "gelu_tanh"])
@pytest.mark.parametrize(("bias", "add"), [(True, False), (False, True), (True, True)])
def test_what_stands_around(act, bias, add) -> None:
    for config in (SMALL, SPLIT, HELD, FOLDED) if act is None else (SMALL, SPLIT, HELD, BOTH):
        _check(5, 48, 256, 128, config, act=act, bias=bias, add=add)


def test_groups_that_are_not_supported() -> None:
    with pytest.raises(ValueError, match="groups of 48 columns"):
        Packed.of(grouped(8, 96, 48), BF16)


@pytest.mark.parametrize("config", [SMALL, SPLIT, HELD, FOLDED, APART, BOTH], ids=str)
def test_a_token_does_not_depend_on_the_others(config) -> None:
    packed = Packed.of(grouped(48, 256, 128), BF16)
    rows, counts = (5, (1, 3)) if config.form == "apart" else (40, (1, 17))
    x = random(rows, 256, dtype=BF16)
    whole = multiply(x, packed, config, TritonKernels())
    for count in counts:
        part = multiply(x[:count], packed, config, TritonKernels())
        assert torch.equal(part, whole[:count])


def test_no_tokens() -> None:
    packed = Packed.of(grouped(32, 128, 64), BF16)
    got = multiply(random(0, 128, dtype=BF16), packed, SMALL, TritonKernels())
    assert got.shape == (0, 32)
