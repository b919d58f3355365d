"""Rounding: grids, GPTQ against a plain reading of the paper, AWQ against rounding to nearest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.core.errors import CheckpointError
from quire.quant.create import awq, gptq
from quire.quant.create.eight_bit import float8_blocks, float8_rows, int8_rows
from quire.quant.create.grid import fit, fit_best, grouped, in_groups
from quire.quant.reference import dequantize

ROWS, COLUMNS = 24, 128


def layer(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> tuple[torch.Tensor, ...]:
    """A matrix, and inputs of which a few channels are large and many go together."""
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns) / 8
    mixed = torch.randn(600, columns // 2) @ torch.randn(columns // 2, columns)
    x = (mixed / 8 + torch.randn(600, columns) / 4) * torch.exp(torch.randn(columns))
    return weight, x, x.T @ x / len(x)


def error(weight: torch.Tensor, rounded: torch.Tensor, x: torch.Tensor) -> float:
    return float(((rounded.double() - weight) @ x.T.double()).norm() / (weight @ x.T).norm())


@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from([2, 3, 4, 8]),
    size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    spread=st.floats(-12, 4),
)
def test_rounding_to_nearest_is_within_a_step(seed, bits, size, symmetric, spread):
    torch.manual_seed(seed)
    weight = torch.randn(5, 128) * 10**spread
    value = grouped(weight, bits, size, symmetric=symmetric)
    assert value.scales.dtype == torch.float16
    assert int(value.codes.max()) < 2**bits
    scale = value.scales.double().repeat_interleave(size, 1)
    off = (dequantize(value) - weight).abs()
    # Ends of the grid move with the zero point, or lack the last half step, and scales are float16.
    slack = 2.0**bits * (scale * 2**-11 + 2**-25)
    assert bool((off <= scale + slack).all())


def test_a_better_grid_is_never_worse():
    weight, _, gram = layer()
    w, importance = in_groups(weight, 32), gram.diagonal().view(-1, 32)
    for symmetric in (True, False):
        plain = fit(w, 3, symmetric=symmetric).round(w)
        best = fit_best(w, 3, symmetric=symmetric, importance=importance).round(w)
        losses = [((x - w) ** 2 * importance).sum(-1) for x in (plain, best)]
        assert bool((losses[1] <= losses[0] * (1 + 1e-5)).all())
        assert float(losses[1].sum()) < 0.95 * float(losses[0].sum())


def by_the_paper(weight, gram, scale, zero, bits, size, damping):
    """Optimal brain quantization in a fixed order, one weight at a time, in float64."""
    w, h = weight.double().clone(), gram.double().clone()
    h.diagonal().add_(damping * h.diagonal().mean())
    order = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    codes = torch.zeros_like(w)
    inverse = torch.linalg.inv(h)
    for at, k in enumerate(order):
        s, z = scale[:, k // size].double(), zero[:, k // size].double()
        codes[:, k] = ((w[:, k] / s).round() + z).clamp(0, 2**bits - 1)
        off = (w[:, k] - (codes[:, k] - z) * s) / inverse[k, k]
        rest = order[at + 1 :]
        w[:, rest] -= off[:, None] * inverse[k, rest]
        inverse -= torch.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return codes


@pytest.mark.parametrize("columns", [96, 320])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_is_what_the_paper_says(bits, symmetric, columns):
    weight, _, gram = layer(columns=columns)
    found = gptq.round_by_hessian(
        weight, gram, bits=bits, group_size=32, symmetric=symmetric, order_groups=False,
        damping=0.01,
    )  # fmt: skip
    zero = torch.full_like(found.scales, 2 ** (bits - 1)) if symmetric else found.zeros
    expected = by_the_paper(weight, gram, found.scales, zero, bits, 32, 0.01)
    # A weight in the middle of two levels may fall to either side in another precision.
    assert float((found.codes != expected).double().mean()) < 0.01


@pytest.mark.parametrize("order_groups", [False, True])
@pytest.mark.parametrize("size", [32, 64, COLUMNS])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_beats_rounding_to_nearest(bits, size, order_groups):
    weight, x, gram = layer()
    for symmetric in (True, False):
        found = gptq.round_by_hessian(
            weight, gram, bits=bits, group_size=size, symmetric=symmetric,
            order_groups=order_groups, damping=0.01,
        )  # fmt: skip
        assert (found.order is None) != order_groups
        nearest = grouped(weight, bits, size, symmetric=symmetric)
        ours, theirs = (error(weight, dequantize(value), x) for value in (found, nearest))
        assert ours < 0.8 * theirs


def test_gptq_with_inputs_never_seen():
    weight, _, gram = layer()
    gram[5] = gram[:, 5] = 0
    gram[7] = gram[:, 7] = gram[6]
    gram[7, 7] = gram[6, 7] = gram[7, 6] = gram[6, 6]
    found = gptq.round_by_hessian(
        weight, gram, bits=4, group_size=32, symmetric=True, order_groups=False, damping=0.01
    )
    assert bool(dequantize(found).isfinite().all())
    # What nobody sees is still rounded to where it was.
    assert float((dequantize(found)[:, 5] - weight[:, 5]).norm() / weight[:, 5].norm()) < 0.3


def test_activations_that_overflow_are_told():
    weight, _, gram = layer()
    with pytest.raises(CheckpointError, match="not finite"):
        gptq.round_by_hessian(
            weight, gram * torch.inf, bits=4, group_size=32, symmetric=True, order_groups=False,
            damping=0.01,
        )  # fmt: skip


@pytest.mark.parametrize("size", [32, 64, COLUMNS])
def test_awq_beats_rounding_to_nearest(size):
    for seed in range(3):
        weight, x, gram = layer(seed)
        scales = awq.find_scales(weight, gram, x.abs().mean(0), bits=4, group_size=size)
        scaled = gram / scales / scales[:, None]
        nearest = grouped(weight, 4, size, symmetric=False)
        theirs = error(weight, dequantize(nearest), x)
        scaled_nearest = grouped(weight * scales, 4, size, symmetric=False)
        ours = error(weight, dequantize(scaled_nearest) / scales, x)
        mended = gptq.round_by_hessian(
            weight * scales, scaled, bits=4, group_size=size, symmetric=False, order_groups=False,
            damping=0.01,
        )  # fmt: skip
        best = error(weight, dequantize(mended) / scales, x)
        assert ours < 0.9 * theirs
        assert best < ours


def test_heads_that_share_values_share_scales():
    weight, x, gram = layer(columns=128)
    found = awq.find_scales(
        weight, gram, x.abs().mean(0), bits=4, group_size=32, shared=2, head_dim=16
    ).view(4, 2, 16)
    assert torch.equal(found[:, 0], found[:, 1])
    assert float(found.std()) > 0


@given(rows=st.integers(1, 300), columns=st.integers(1, 300), seed=st.integers(0, 99))
def test_bytes_are_near(rows, columns, seed):
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns) * torch.exp(torch.randn(rows, 1))
    for value, most in (
        (float8_rows(weight, torch.bfloat16), 2**-4 + 2**-8),
        (float8_blocks(weight, 128), 2**-4),
        (int8_rows(weight, torch.bfloat16), None),
    ):
        off = (dequantize(value) - weight).abs()
        if most is None:
            assert bool((off <= weight.abs().amax(1, keepdim=True) / 127 * 0.75).all())
        else:
            least = value.scales.max().double() * 2**-9
            assert bool((off <= weight.abs() * most + least).all())


def test_scales_are_rounded_before_what_they_scale():
    weight = torch.randn(40, 64)
    value = float8_rows(weight, torch.bfloat16)
    assert torch.equal(value.scales, value.scales.bfloat16().float())
    expected = (weight / value.scales).clamp(-448, 448).to(torch.float8_e4m3fn)
    assert torch.equal(value.values.float(), expected.float())
