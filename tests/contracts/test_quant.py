"""Quantization: every registered method has cases and keeps them, and broken ones are caught."""

from collections.abc import Callable, Iterator

import pytest
import torch

from quire.core.contracts.quant import LinearSpec, QuantMethod
from quire.core.registry import Registry
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import DenseLinear, Unquantized
from quire.testing import ConformanceError, QuantCase, check_quant
from tests.quant.layers import MAKERS


def dense(method: type[QuantMethod]) -> Iterator[QuantCase]:
    """Layers as they are stored without quantization."""
    made = method.from_checkpoint(None, CPU())
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2e-2)):
        for widths in ((24,), (24, 8, 8)):
            for bias in (False, True):
                names = tuple(f"a.{index}" for index in range(len(widths)))
                spec = LinearSpec(
                    shards=names, out_features=widths, in_features=40, bias=bias, dtype=dtype
                )
                at = getattr(torch, dtype)
                parts = [torch.randn(width, 40).to(at) for width in widths]
                biases = [torch.randn(width).to(at) for width in widths]
                stored = {f"{n}.weight": w for n, w in zip(names, parts, strict=True)}
                if bias:
                    stored |= {f"{n}.bias": b for n, b in zip(names, biases, strict=True)}
                whole = torch.cat(biases).double() if bias else None
                yield QuantCase(made, spec, stored, torch.cat(parts).double(), whole, tolerance)


# Layers as methods store them that are made here.
CASES: dict[str, Callable[[type[QuantMethod]], Iterator[QuantCase]]] = {"none": dense}


def test_every_method_has_layers_to_be_judged_by() -> None:
    """tests/quant/test_formats.py judges those that read quantized checkpoints."""
    assert {*Registry().names("quant")} == {*CASES} | {maker.method for maker in MAKERS}


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_method_with_cases_conforms(name: str) -> None:
    method = Registry().get("quant", name)
    check_quant(lambda: CASES[name](method))


def broken(**changes: object) -> type[QuantMethod]:
    holder = type("Broken", (DenseLinear,), changes)

    class Method(Unquantized):
        def linear(self, spec, device):
            return holder(spec, device, self.platform)

    return Method


def nothing(self, name, tensor):
    self._targets[name].copy_(tensor.reshape(self._targets[name].shape))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (broken(names=lambda self: {"a.weight"}), "names differ"),
        (broken(apply=lambda self, x: DenseLinear.apply(self, x) * 1.1), "off by"),
        (broken(apply=lambda self, x: DenseLinear.apply(self, x).double()), "torch.float64"),
        (broken(load=nothing), "is taken in the shape"),
        (broken(make_up=lambda self, generator: self._weight.fill_(torch.inf)), "not finite"),
    ],
    ids=["names", "values", "dtype", "shapes", "made up"],
)
def test_a_broken_method_is_caught(method: type[QuantMethod], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_quant(lambda: dense(method))


def test_a_method_without_cases_is_not_passed() -> None:
    with pytest.raises(ConformanceError, match="no case"):
        check_quant(lambda: iter(()))
