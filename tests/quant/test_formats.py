"""Every stored format through the conformance suite: products against float64 dequantization."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.testing import check_quant
from tests.quant.layers import MAKERS, Maker, case

BY_NAME = {maker.name: maker for maker in MAKERS}
assert len(BY_NAME) == len(MAKERS)


def fits(maker: Maker, least: int, step: str) -> int:
    """The least number of outputs or inputs from ``least`` on that the format holds."""
    multiple = maker.outputs if step == "outputs" else maker.inputs
    return -(-least // multiple) * multiple


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BY_NAME)
def test_conformance(name: str, dtype: str) -> None:
    maker = BY_NAME[name]
    torch.manual_seed(0)
    columns = fits(maker, 256, "inputs")
    one, several = fits(maker, 24, "outputs"), fits(maker, 40, "outputs")
    check_quant(
        lambda: [
            case(maker, (one,), columns, dtype=dtype),
            case(maker, (several, one, one), columns, bias=True, dtype=dtype),
        ]
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape(data: st.DataObject) -> None:
    """Edge sizes: one group or many, outputs beside a vector's width, orders that differ."""
    maker = BY_NAME[data.draw(st.sampled_from(sorted(BY_NAME)))]
    columns = maker.inputs * data.draw(st.integers(1, 6))
    widths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    made = case(
        maker,
        tuple(maker.outputs * width for width in widths),
        columns,
        seed=data.draw(st.integers(0, 1000)),
        bias=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(["float32", "bfloat16"])),
        shared=data.draw(st.booleans()),
    )
    holder = made.method.linear(made.spec, torch.device("cpu"))
    for name, tensor in made.stored.items():
        holder.load(name, tensor)
    holder.finish()
    dtype = getattr(torch, made.spec.dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(data.draw(st.integers(1, 40)), columns, generator=generator).to(dtype)
    expected = x.double() @ made.weight.T + (0 if made.bias is None else made.bias)
    error = holder.apply(x).double() - expected
    # With few inputs rounding does not average out, and terms may cancel.
    assert error.norm() <= made.tolerance * ((x.double().abs() @ made.weight.abs().T).norm() + 1)


KINDS = (
    "awq-gemm-64",
    "gptq-4-128-asymmetric-ordered-v2",
    "gptq-3--1-asymmetric",
    "packed-8-128-asymmetric",
    "fp8-block",
    "float-channel",
    "float-tensor-static",
    "int-channel",
)
"""One of each product."""
ROWS = (1, 2, 3, 7, 16, 33, 120, 257)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_a_row_does_not_depend_on_the_others(name: str, dtype: str) -> None:
    maker = BY_NAME[name]
    columns, width = fits(maker, 320, "inputs"), fits(maker, 70, "outputs")
    made = case(maker, (width,), columns, bias=True, dtype=dtype)
    holder = made.method.linear(made.spec, torch.device("cpu"))
    for key, tensor in made.stored.items():
        holder.load(key, tensor)
    holder.finish()
    x = torch.randn(ROWS[-1], columns).to(getattr(torch, dtype))
    alone = torch.cat([holder.apply(row[None]) for row in x])
    for rows in ROWS:
        assert torch.equal(holder.apply(x[:rows]), alone[:rows])
