"""Attention backends on the CPU against a dense float64 oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.attention import cpu_geometry
from quire.backends.attention.cpu import CPUAttention
from quire.backends.attention.reference import Reference
from quire.core.contracts.attention import AttentionBackend, AttentionSpec
from quire.testing import Scenario, check_attention, check_cache

BACKENDS = [Reference, CPUAttention]


@st.composite
def specs(draw: st.DrawFn) -> AttentionSpec:
    kv_heads = draw(st.sampled_from((1, 2, 3)))
    width = draw(st.sampled_from((8, 16, 40)))
    return AttentionSpec(
        num_heads=kv_heads * draw(st.sampled_from((1, 2, 5))),
        num_kv_heads=kv_heads,
        head_dim=width,
        scale=width**-0.5,
        window=draw(st.sampled_from((None, None, 1, 7, 33))),
        soft_cap=draw(st.sampled_from((None, None, 3.0))),
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return Scenario(
        seed=draw(st.integers(0, 2**31)),
        layers=tuple(draw(st.lists(specs(), min_size=1, max_size=3))),
        block_size=draw(st.sampled_from((1, 2, 16, 16, 128))),
        rows=draw(st.integers(1, 6)),
        longest=draw(st.sampled_from((1, 9, 40))),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@given(scenario=scenarios())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_against_dense_float64(backend: type[AttentionBackend], scenario: Scenario) -> None:
    check_attention(backend, scenario)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 20])
def test_bfloat16(backend: type[AttentionBackend], window: int | None) -> None:
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, scale=32**-0.5, window=window)
    check_attention(backend, Scenario(seed=1, layers=(spec, spec), dtype=torch.bfloat16, rows=5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_prompts_about_as_long_as_the_window(backend: type[AttentionBackend]) -> None:
    spec = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=8, scale=0.35, window=4)
    for seed in range(10):
        check_attention(backend, Scenario(seed=seed, layers=(spec,), rows=6, steps=2, longest=7))


@pytest.mark.parametrize("fused", [True, False])
def test_both_ways_to_decode(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.backends.attention.cpu._has_amx", lambda: fused)
    spec = AttentionSpec(num_heads=6, num_kv_heads=2, head_dim=16, scale=0.25)
    scenario = Scenario(seed=2, layers=(spec,), dtype=torch.bfloat16, rows=6, steps=12, longest=3)
    check_attention(CPUAttention, scenario)


def test_long_rows_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups and query pieces so small that every limit is met."""
    monkeypatch.setattr(cpu_geometry, "_GROUP_BYTES", 4096)
    monkeypatch.setattr(cpu_geometry, "_SMALL_LENGTH", 8)
    monkeypatch.setattr("quire.backends.attention.cpu._MASK_SIZE", 64)
    spec = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=8, scale=0.3)
    windowed = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=8, scale=0.3, window=21)
    for seed in range(4):
        scenario = Scenario(seed=seed, layers=(spec, windowed), block_size=4, rows=8, steps=10)
        check_attention(CPUAttention, scenario)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_sizes(backend: type[AttentionBackend]) -> None:
    check_cache(backend)
