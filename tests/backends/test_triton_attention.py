"""The Triton backend on a GPU: random steps, the contract, captured steps."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from quire.backends.attention import triton_dense
from quire.backends.attention.triton_alike import TritonAlike
from quire.backends.attention.triton_paged import TritonPaged
from quire.core.contracts.attention import AttentionBatch, AttentionSpec, Rotation
from quire.testing import Scenario, check_attention, check_cache
from tests.kernels.attention_case import (
    AttentionCase,
    check_alike,
    check_captured_chunks,
    check_step,
    check_writing_before,
)

pytestmark = pytest.mark.gpu

FLOAT8 = torch.float8_e4m3fn


def _spec(heads: int, kv_heads: int, width: int, **more: float) -> AttentionSpec:
    return AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=width, scale=width**-0.5, **more
    )


def _rows(rng: random.Random) -> tuple[tuple[int, int], ...]:
    longest = rng.choice((40, 700, 5000))
    decodes = [(1, rng.randint(1, longest)) for _ in range(rng.choice((0, 1, 3, 40)))]
    counts = [rng.choice((2, 5, 17, 130, 600)) for _ in range(rng.randint(0 if decodes else 1, 3))]
    return (*decodes, *((n, n + rng.choice((0, rng.randint(1, longest)))) for n in counts))


@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16, torch.float32, FLOAT8])
def test_random_steps(width: int, kv_dtype: torch.dtype) -> None:
    if kv_dtype is FLOAT8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 needs compute capability 8.9")
    for seed in range(6):
        rng = random.Random(f"{width} {kv_dtype} {seed}")
        kv_heads = rng.choice((1, 2, 3, 8))
        spec = _spec(
            kv_heads * rng.choice((1, 4, 5, 7, 16)),
            kv_heads,
            width,
            window=rng.choice((None, None, 1, 100, 1000)),
            soft_cap=rng.choice((None, None, 20.0)),
        )
        dtype = kv_dtype
        if kv_dtype is not torch.float32:
            dtype = rng.choice((torch.bfloat16, torch.float16))
        check_step(
            AttentionCase(
                spec,
                _rows(rng),
                seed=seed,
                block_size=rng.choice((16, 32, 64, 128)),
                dtype=dtype,
                kv_dtype=kv_dtype,
                rotate=rng.random() < 0.7,
                scales=(0.5, 2.0) if kv_dtype is FLOAT8 else (1.0, 1.0),
            ),
            "cuda",
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 20])
def test_contract(dtype: torch.dtype, window: int | None) -> None:
    specs = (_spec(4, 2, 64, window=window), _spec(6, 3, 16, soft_cap=3.0))
    for seed in range(5):
        scenario = Scenario(seed=seed, layers=specs, rows=6, longest=40, dtype=dtype)
        check_attention(TritonPaged, scenario, "cuda")


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float32, FLOAT8])
def test_shared_prefixes(kv_dtype: torch.dtype) -> None:
    if kv_dtype is FLOAT8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 needs compute capability 8.9")
    dtype = torch.float32 if kv_dtype is torch.float32 else torch.bfloat16
    rng = random.Random(3)
    for heads, kv_heads, width, block_size in ((8, 2, 128, 16), (5, 1, 64, 32), (6, 6, 80, 16)):
        shared = 1024 // block_size
        rows = tuple((1, rng.choice((1, rng.randint(1030, 2000)))) for _ in range(50))
        case = AttentionCase(
            _spec(heads, kv_heads, width),
            ((1, 1100), *rows, (9, 1100)),
            block_size=block_size,
            dtype=dtype,
            kv_dtype=kv_dtype,
            shared=shared,
        )
        check_step(case, "cuda")


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16, FLOAT8])
def test_either_way_of_writing(kv_dtype: torch.dtype) -> None:
    if kv_dtype is FLOAT8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 needs compute capability 8.9")
    kinds = {"dtype": torch.bfloat16, "kv_dtype": kv_dtype}
    rows = ((1, 1), (1, 64), (1, 3000))
    check_writing_before(AttentionCase(_spec(8, 2, 128), rows, **kinds), "cuda")


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16])
def test_chunks_that_a_graph_holds(kv_dtype: torch.dtype) -> None:
    kinds = {"dtype": torch.bfloat16, "kv_dtype": kv_dtype}
    for rows, num_tokens in (
        (((1, 5), (1, 4000), (9, 9), (300, 2000)), 320),
        ((*((1, 100 + n) for n in range(60)), (200, 200), (500, 700)), 768),
        (((30, 30),), 32),
    ):
        for window in (None, 100):
            spec = _spec(8, 2, 128, window=window)
            check_captured_chunks(AttentionCase(spec, rows, **kinds), num_tokens, "cuda")


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float32, FLOAT8])
@pytest.mark.parametrize("more", [{}, {"window": 100}, {"soft_cap": 20.0}], ids=str)
def test_bits_depend_on_nothing_else(kv_dtype: torch.dtype, more: dict[str, float]) -> None:
    if kv_dtype is FLOAT8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 needs compute capability 8.9")
    dtype = torch.float32 if kv_dtype is torch.float32 else torch.bfloat16
    kinds = {"dtype": dtype, "kv_dtype": kv_dtype, "backend": TritonAlike}
    rows = ((1, 1), (1, 64), (1, 3000), (9, 9), (300, 1800), (2, 666), (130, 257))
    check_alike(AttentionCase(_spec(8, 2, 128, **more), rows, **kinds), 512, "cuda")


def test_long_rows_by_dense_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_dense, "DENSE_STEP", 100)
    for width in (64, 128):
        spec = _spec(8, 2, width)
        rows = ((1, 900), (17, 700), (300, 400), (390, 1533), (1000, 1001), (85, 777))
        kinds = {"dtype": torch.bfloat16, "kv_dtype": torch.bfloat16}
        check_step(AttentionCase(spec, rows, **kinds), "cuda")


def test_cache() -> None:
    check_cache(TritonPaged, "cuda")


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("kind", [TritonPaged, TritonAlike])
def test_a_captured_step_serves_other_lengths(kind: type[TritonPaged], window: int | None) -> None:
    """One graph, replayed with lengths and tables changed on the device, equals fresh launches."""
    rows, size, most = 5, 16, 4000
    spec = _spec(8, 2, 64, window=window)
    device = torch.device("cuda")
    backend = kind([spec], block_size=size, kv_dtype=torch.bfloat16, device=device)
    backend.allocate(1 + rows * most // size)
    layer = backend._layers[0]
    for cache in (layer.keys, layer.values):
        cache.normal_()
    tables = torch.arange(1, 1 + rows * most // size, dtype=torch.int32, device=device)
    tables = tables.view(rows, -1)

    def batch(lengths: list[int]) -> AttentionBatch:
        at = torch.tensor(lengths, dtype=torch.int32, device=device)
        last = (at - 1).long()
        blocks = tables.gather(1, last[:, None] // size).squeeze(1)
        return AttentionBatch(
            query_start=torch.arange(rows + 1, dtype=torch.int32, device=device),
            lengths=at,
            block_tables=tables,
            write_slots=blocks.long() * size + last % size,
            num_decodes=rows,
            query_lengths=[1] * rows,
            host_lengths=lengths,
        )

    qkv = torch.randn(rows, 12, 64, dtype=torch.bfloat16, device=device)
    q, k, v = qkv.split([8, 2, 2], 1)
    table = torch.randn(most, 2, 64, dtype=torch.bfloat16, device=device)
    held = batch([most] * rows)
    positions = (held.lengths - 1).long()
    rotation = Rotation(table, positions)
    backend.attend(0, q, k, v, backend.prepare(held), rotation)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = backend.attend(0, q, k, v, backend.prepare(held), rotation)
    rng = random.Random(window)
    for turn in range(8):
        # With the key of the longest, and with that of shorter rows.
        longest = rng.randint(1, 500) if turn % 2 else rng.randint(most // 2 + 100, most)
        lengths = [rng.choice((1, rng.randint(1, longest))) for _ in range(rows - 1)] + [longest]
        if longest > most // 2:
            assert backend.graph_key(rows, longest) == backend.graph_key(rows, most)
        now = batch(lengths)
        held.lengths.copy_(now.lengths)
        held.write_slots.copy_(now.write_slots)
        positions.copy_(now.lengths - 1)
        given = torch.randn_like(qkv)
        qkv.copy_(given)
        found.fill_(torch.nan)
        graph.replay()
        # What is attended to in tiles has been rotated in place.
        qkv.copy_(given)
        expected = backend.attend(0, q, k, v, backend.prepare(now), Rotation(table, positions))
        tolerance = 0.0 if kind is TritonAlike else 2e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
