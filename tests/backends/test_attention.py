"""Attention backends on the CPU against a dense float64 oracle."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.attention.cpu import CPUAttention
from quire.backends.attention.reference import Reference
from quire.core.conformance.recorded import check_recorded
from quire.core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec
from quire.core.errors import ConfigError
from quire.testing import ConformanceError, Scenario, check_attention, check_cache

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


def test_long_rows_are_split() -> None:
    """Rows of more lines than a thread takes at a time."""
    spec = AttentionSpec(num_heads=6, num_kv_heads=2, head_dim=24, scale=0.3)
    windowed = AttentionSpec(num_heads=6, num_kv_heads=1, head_dim=8, scale=0.3, window=21)
    for seed in range(4):
        scenario = Scenario(seed=seed, layers=(spec, windowed), block_size=4, rows=8, longest=70)
        check_attention(CPUAttention, scenario)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_sizes(backend: type[AttentionBackend]) -> None:
    check_cache(backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "window"), [(2, None), (8, None), (2, 40), (8, 150)])
def test_bits_do_not_depend_on_the_step(dtype: torch.dtype, heads: int, window: int | None) -> None:
    """A sequence cut in any way, beside any others, gets the bits that it gets token by token."""
    length, width, kv_heads = 301, 32, 2
    spec = AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=width, scale=width**-0.5, window=window
    )
    generator = torch.Generator().manual_seed(3)
    sequences = [
        torch.randn(length, heads + 2 * kv_heads, width, generator=generator).to(dtype)
        for _ in range(5)
    ]
    rng = random.Random(4)
    single = _run(spec, dtype, sequences[:1], lambda _: 1)
    assert torch.equal(single[0], _run(spec, dtype, sequences[:1], lambda _: length)[0])
    for most in (2, 60, 200):
        found = _run(
            spec, dtype, sequences, lambda left, most=most: min(left, rng.choice((1, most)))
        )
        assert torch.equal(found[0], single[0])


def test_heads_of_an_odd_width_are_refused() -> None:
    spec = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=7, scale=1.0)
    with pytest.raises(ConfigError, match=r"attention\.backend"):
        CPUAttention([spec], block_size=16, kv_dtype=torch.float32, device=torch.device("cpu"))


def test_what_was_prepared_serves_later_steps() -> None:
    check_recorded(CPUAttention)


def test_a_backend_that_looks_at_lengths_on_the_host_is_noticed() -> None:
    with pytest.raises(ConformanceError, match="recorded"):
        check_recorded(Reference)


def _run(
    spec: AttentionSpec,
    dtype: torch.dtype,
    sequences: list[torch.Tensor],
    cut: Callable[[int], int],
) -> list[torch.Tensor]:
    """Outputs of sequences that are run together; ``cut`` says how much of what is left."""
    size, width = 16, -(-len(sequences[0]) // 16)
    attention = CPUAttention([spec], block_size=size, kv_dtype=dtype, device=torch.device("cpu"))
    attention.allocate(1 + width * len(sequences))
    # Block tables that interleave, so that blocks stand in a line only for a sequence alone.
    tables = [list(range(1 + i, 1 + width * len(sequences), len(sequences))) for i in range(5)]
    done = [0] * len(sequences)
    outputs = [torch.empty(0, spec.num_heads * spec.head_dim, dtype=dtype) for _ in sequences]
    while any(at < len(sequence) for at, sequence in zip(done, sequences, strict=True)):
        counts = {
            row: cut(len(sequence) - done[row])
            for row, sequence in enumerate(sequences)
            if done[row] < len(sequence)
        }
        rows = sorted(counts, key=lambda row: counts[row] > 1)
        spans = [range(done[row], done[row] + counts[row]) for row in rows]
        starts = [0, *itertools.accumulate(len(span) for span in spans)]
        slots = [
            tables[row][position // size] * size + position % size
            for row, span in zip(rows, spans, strict=True)
            for position in span
        ]
        batch = AttentionBatch(
            query_start=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor([span.stop for span in spans], dtype=torch.int32),
            block_tables=torch.tensor([tables[row] for row in rows], dtype=torch.int32),
            write_slots=torch.tensor(slots),
            num_decodes=sum(len(span) == 1 for span in spans),
            query_lengths=[len(span) for span in spans],
            host_lengths=[span.stop for span in spans],
        )
        x = torch.cat(
            [sequences[row][span.start : span.stop] for row, span in zip(rows, spans, strict=True)]
        )
        q, k, v = torch.split(x, [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], 1)
        out = attention.attend(0, q, k, v, attention.prepare(batch))
        for row, span, part in zip(rows, spans, out.split([len(s) for s in spans]), strict=True):
            outputs[row] = torch.cat((outputs[row], part))
            done[row] = span.stop
    return outputs
