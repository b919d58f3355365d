"""Paged attention against float64 in the interpreter."""

from __future__ import annotations

import random

import pytest
import torch

from quire.backends.attention import triton_dense, triton_layer, triton_paged, triton_plan
from quire.backends.attention.triton_alike import TritonAlike
from quire.backends.attention.triton_paged import TritonPaged
from quire.core.contracts.attention import AttentionSpec
from quire.testing import Scenario, check_attention, check_cache
from tests.kernels.attention_case import (
    AttentionCase,
    check_alike,
    check_captured_chunks,
    check_last_tokens,
    check_step,
    check_writing_before,
)

FLOAT8 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two multiprocessors, and parts from one tile on, so that short rows are split."""
    monkeypatch.setattr(triton_paged, "_processors", lambda device, kv_dtype: 2)
    monkeypatch.setattr(triton_plan, "_FEWEST_KEYS", 64)
    monkeypatch.setattr(triton_plan, "_MOST_KEYS", 128)


def _spec(heads: int, kv_heads: int, width: int, **more: float) -> AttentionSpec:
    return AttentionSpec(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=width, scale=width**-0.5, **more
    )


def _rows(rng: random.Random) -> tuple[tuple[int, int], ...]:
    """A mixed step: some of one query, some of several, cached prefixes of any length."""
    decodes = [(1, rng.choice((1, 2, 63, 64, 65, 150))) for _ in range(rng.randint(0, 3))]
    counts = [rng.choice((2, 9, 70)) for _ in range(rng.randint(0 if decodes else 1, 2))]
    return (*decodes, *((count, count + rng.choice((0, 1, 30, 80))) for count in counts))


@pytest.mark.parametrize("seed", range(12))
def test_random_steps(seed: int) -> None:
    rng = random.Random(seed)
    kv_heads = rng.choice((1, 2, 3))
    spec = _spec(
        kv_heads * rng.choice((1, 2, 5)),
        kv_heads,
        rng.choice((16, 40, 64)),
        window=rng.choice((None, None, 1, 20, 70)),
        soft_cap=rng.choice((None, 4.0)),
    )
    kv_dtype = rng.choice((torch.float32, torch.bfloat16, torch.float16, FLOAT8))
    dtype = (
        torch.float32 if kv_dtype is torch.float32 else rng.choice((torch.bfloat16, torch.float16))
    )
    check_step(
        AttentionCase(
            spec,
            _rows(rng),
            seed=seed,
            block_size=rng.choice((16, 32, 128)),
            dtype=dtype,
            kv_dtype=kv_dtype,
            rotate=rng.random() < 0.7,
            scales=(0.5, 2.0) if kv_dtype is FLOAT8 else (1.0, 1.0),
        )
    )


@pytest.mark.parametrize(
    ("rows", "num_tokens"),
    [
        (((1, 5), (1, 150), (9, 9), (3, 80)), 16),
        (((70, 71),), 96),
        (((1, 1), (1, 64), (1, 65)), 16),
        (((2, 2), (2, 40), (17, 17)), 32),
    ],
)
@pytest.mark.parametrize("window", [None, 20])
def test_chunks_that_a_graph_holds(rows, num_tokens: int, window: int | None) -> None:
    kinds = {"dtype": torch.bfloat16, "kv_dtype": torch.bfloat16}
    check_captured_chunks(AttentionCase(_spec(6, 2, 16, window=window), rows, **kinds), num_tokens)


@pytest.mark.parametrize(
    ("kv_dtype", "more"),
    [
        (torch.float32, {}),
        (FLOAT8, {}),
        (torch.float32, {"window": 20}),
        (torch.bfloat16, {"window": 20}),
        (torch.bfloat16, {"soft_cap": 4.0}),
    ],
)
def test_bits_depend_on_nothing_else(kv_dtype: torch.dtype, more: dict[str, float]) -> None:
    """Rows of one token and of several, at the ends of tiles and between."""
    dtype = torch.float32 if kv_dtype is torch.float32 else torch.bfloat16
    kinds = {"dtype": dtype, "kv_dtype": kv_dtype, "backend": TritonAlike}
    rows = ((1, 1), (1, 64), (1, 150), (9, 9), (30, 80), (2, 66))
    check_alike(AttentionCase(_spec(6, 2, 16, **more), rows, **kinds), 64)


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("window", [None, 20])
def test_short_rows_in_a_step_for_long_ones(window: int | None, shared: int) -> None:
    """As where a graph is captured for as many tokens as a row may get."""
    spec = _spec(6, 2, 16, window=window)
    rows = ((1, 50), (1, 64), (1, 150), (1, 65)) if shared else ((1, 1), (1, 64), (1, 150))
    check_step(AttentionCase(spec, rows, shared=shared, bound=4000))


def test_chunks_that_do_not_fit() -> None:
    """Of a token or two each, every one takes a tile."""
    layer = _spec(2, 2, 16)
    kinds = {"block_size": 16, "kv_dtype": torch.bfloat16, "device": torch.device("cpu")}
    backend = TritonPaged([layer], **kinds)
    assert backend.chunk_plan([1, *[2] * 10], [1, *[2] * 10], 1, 32) is not None
    assert backend.chunk_plan([2] * 30, [2] * 30, 0, 64) is None


@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
def test_head_sizes(width: int) -> None:
    check_step(AttentionCase(_spec(2, 1, width), ((1, 70), (5, 20))))


def test_many_parts() -> None:
    """More than are merged at once."""
    case = AttentionCase(_spec(3, 1, 16), ((1, 700), (1, 5)), dtype=torch.bfloat16,
                         kv_dtype=torch.bfloat16)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_paged, "_processors", lambda device, kv_dtype: 8)
        check_step(case)


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FLOAT8])
@pytest.mark.parametrize("rotate", [False, True])
def test_last_tokens_alone(kv_dtype: torch.dtype, rotate: bool) -> None:
    kinds = {"dtype": torch.bfloat16, "kv_dtype": kv_dtype, "rotate": rotate}
    rows = ((1, 1), (1, 64), (9, 9), (70, 150))
    check_last_tokens(AttentionCase(_spec(6, 2, 16), rows, **kinds))


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16, FLOAT8])
def test_either_way_of_writing(kv_dtype: torch.dtype) -> None:
    kinds = {"dtype": torch.bfloat16, "kv_dtype": kv_dtype}
    check_writing_before(AttentionCase(_spec(6, 2, 16), ((1, 1), (1, 64), (1, 150)), **kinds))


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, FLOAT8])
@pytest.mark.parametrize("rotate", [True, False])
def test_shared_prefixes(
    monkeypatch: pytest.MonkeyPatch, kv_dtype: torch.dtype, rotate: bool
) -> None:
    """Runs of several lengths, one with a row that pads, the last not full."""
    monkeypatch.setattr(triton_plan, "_FEWEST_SHARED", 32)
    monkeypatch.setattr(triton_plan, "SHARED_ROWS", 16)
    monkeypatch.setattr(triton_layer, "SHARED_ROWS", 16)
    spec = _spec(12, 2, 16, soft_cap=None if rotate else 5.0)
    rows = ((1, 150), (1, 97), (1, 300), (1, 1), (1, 113), (1, 120), (1, 98), (4, 104))
    dtype = torch.float32 if kv_dtype is torch.float32 else torch.bfloat16
    case = AttentionCase(spec, rows, rotate=rotate, dtype=dtype, kv_dtype=kv_dtype, shared=6)
    check_step(case)


def test_shared_prefixes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many whole blocks as a run has in common, none of them a row's newest token's."""
    size, rng = 4, random.Random(5)
    layout = triton_plan.Layout(16, 2, 16, 0, False)
    for _ in range(20):
        monkeypatch.setattr(triton_plan, "_FEWEST_SHARED", rng.choice((1, 200)))
        common = rng.choice((0, 3, 64, 100))
        tables, lengths = torch.randint(1000, 2000, (11, 130), dtype=torch.int32), []
        for table in tables:
            table[:common] = torch.arange(common)
            lengths.append(rng.choice((1, rng.randint(max(2, common * size - 6), 500))))
        batch = triton_plan.AttentionBatch(
            query_start=torch.arange(12, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            block_tables=tables,
            write_slots=torch.zeros(11, dtype=torch.int64),
            num_decodes=11,
            query_lengths=[1] * 11,
            host_lengths=lengths,
            shares_prefixes=True,
        )
        plan = triton_plan.plan_decode(batch, layout, 4, torch.bfloat16, size)
        if max(lengths) <= triton_plan._FEWEST_SHARED:
            assert plan.shared is None
            continue
        assert plan.shared is not None and plan.shared.run == 8
        for run, found in enumerate(plan.shared.keys.tolist()):
            taking = [n for n in lengths[run * 8 : run * 8 + 8] if n > 1]
            expected = 0
            if len(taking) > 1:
                expected = min(common, *((n - 1) // size for n in taking)) * size
            assert found == (expected if expected >= triton_plan._FEWEST_SHARED else 0)
        for row, begin, end, _, _, shared in plan.parts.tolist():
            if row >= 0:
                assert shared in (0, plan.shared.keys[row // 8])
                assert begin >= shared and end <= lengths[row]


def test_short_rows_share_no_graph_of_their_own() -> None:
    """Less than what is worth sharing may begin alike, and they run in other steps' graphs."""
    cpu, most = torch.device("cpu"), triton_plan._FEWEST_SHARED
    spec = _spec(4, 2, 16)
    backend = TritonPaged([spec], block_size=16, kv_dtype=torch.bfloat16, device=cpu)
    for longest, shared in ((most, False), (most + 1, True)):
        apart = backend.graph_key(32, longest)
        assert (backend.graph_key(32, longest, shares_prefixes=True) != apart) is shared


def test_long_rows_by_dense_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole prompts, and chunks behind a prefix that ends within a block, among tiled rows."""

    def attention(q, k, v, scale, *, causal):
        group = q.shape[1] // k.shape[1]
        k, v = (x[0].float().repeat_interleave(group, 0) for x in (k, v))
        scores = q[0].float() @ k.mT * scale
        if causal:
            scores += torch.full(scores.shape[1:], float("-inf")).triu(1)
        out = (scores.softmax(-1) @ v).to(q.dtype)
        return out.transpose(0, 1), scores.logsumexp(-1, keepdim=True).transpose(0, 1)

    monkeypatch.setattr(triton_dense, "DENSE_STEP", 10)
    monkeypatch.setattr(triton_dense, "_attention", attention)
    spec = _spec(6, 2, 32)
    kinds = {"dtype": torch.bfloat16, "kv_dtype": torch.bfloat16}
    for rows in (((1, 40), (5, 50), (40, 40), (28, 61)), ((30, 60), (38, 45), (9, 100))):
        for rotate in (True, False):
            check_step(AttentionCase(spec, rows, rotate=rotate, **kinds))


@pytest.mark.parametrize(
    ("backend", "dtype", "window"),
    [
        (TritonPaged, torch.float32, None),
        (TritonPaged, torch.bfloat16, 7),
        (TritonAlike, torch.bfloat16, 7),
    ],
)
def test_contract(backend: type[TritonPaged], dtype: torch.dtype, window: int | None) -> None:
    specs = (_spec(4, 2, 16, window=window), _spec(3, 3, 16, soft_cap=3.0))
    check_attention(backend, Scenario(seed=3, layers=specs, steps=3, dtype=dtype))


def test_cache() -> None:
    check_cache(TritonPaged)


@pytest.mark.parametrize("seed", range(20))
def test_parts_cover_every_row(seed: int) -> None:
    """Every key in one part, no more parts than room, and arrivals zeroed."""
    rng = random.Random(seed)
    layout = triton_plan.Layout(4, rng.choice((1, 2, 8)), 16, rng.choice((0, 0, 100)), False)
    processors = rng.choice((1, 4, 132))
    rows = rng.choice((1, 2, 30))
    most = rng.choice((1, 64, 300, 5000))
    lengths = [rng.randint(1, most) for _ in range(rows)]
    # Planned for a batch of the same key, as a captured step is.
    planned = [1] * (rows - 1) + [most]
    batch = triton_plan.AttentionBatch(
        query_start=torch.arange(rows + 1, dtype=torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        block_tables=torch.zeros(rows, 1, dtype=torch.int32),
        write_slots=torch.zeros(rows, dtype=torch.int64),
        num_decodes=rows,
        query_lengths=[1] * rows,
        host_lengths=planned,
    )
    plan = triton_plan.plan_decode(batch, layout, processors, torch.float32, 16)
    assert not plan.arrived.any()
    parts = [part for part in plan.parts.tolist() if part[0] >= 0]
    assert parts == plan.parts.tolist()[: len(parts)]
    for row, length in enumerate(lengths):
        mine = [part for part in parts if part[0] == row]
        assert [part[3:] for part in mine] == [[n, len(mine), 0] for n in range(len(mine))]
        first = max(0, length - layout.window) if layout.window else 0
        assert [part[1] for part in mine] == [first, *(part[2] for part in mine[:-1])]
        assert mine[-1][2] == length
        assert all(begin < end for _, begin, end, *_ in mine)


@pytest.mark.parametrize("seed", range(3))
def test_single_queries_that_see_tokens_of_each_other(seed: int) -> None:
    layers = (_spec(4, 2, 16), _spec(4, 2, 16, window=9))
    scenario = Scenario(seed, layers, rows=2, steps=3, longest=5, rotate=bool(seed), siblings=True)
    check_attention(TritonPaged, scenario)
