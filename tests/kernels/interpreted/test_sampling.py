"""The sampling kernels against exact arithmetic and against the sampler of torch's operators."""

import numpy as np
import pytest
import torch

from quire.backends.kernels.sampling import Shape, TritonDraw
from quire.core.request import SamplingParams
from quire.core.run.sample_random import stream_of
from quire.core.run.sample_table import FILTERED, PARAMETERS, SAMPLED, ParameterTable
from tests.kernels.drawing import MIXES, check_draw

CPU = torch.device("cpu")
# Rows of a few hundred tokens take every path: several chunks, few groups in sight, short lists.
SMALL = Shape(chunk=64, group=4, chosen=8, pivots=4, passes=3, listed=32)


def table_of(settings: list[dict[str, float]], vocab: int) -> ParameterTable:
    table = ParameterTable(len(settings), CPU)
    for slot, chosen in enumerate(settings):
        table.enter(slot, row_of(SamplingParams(**chosen), slot, vocab))
    table.upload()
    return table


def row_of(params: SamplingParams, seed: int, vocab: int) -> np.ndarray:
    sampled = not params.greedy and params.top_k != 1
    top_k = params.top_k if 0 < params.top_k < vocab else vocab
    filtered = top_k < vocab or params.top_p < 1 or params.min_p > 0
    flags = sampled * SAMPLED | (sampled and filtered) * FILTERED
    floor = np.log(params.min_p) if params.min_p > 0 else -np.inf
    row = (stream_of(seed), params.top_p, params.temperature, floor, top_k, flags)
    return np.array(row, dtype=PARAMETERS)


def draw(
    logits: torch.Tensor,
    settings: list[dict[str, float]],
    slots: list[int] | None = None,
    position: int = 7,
    shape: Shape = SMALL,
    **options: object,
) -> list[int]:
    rows, vocab = logits.shape
    kernels = TritonDraw(max_rows=rows, vocab_size=vocab, device=CPU, shape=shape)
    out = torch.full((rows,), -77)
    at = torch.tensor(list(range(rows)) if slots is None else slots)
    lengths = torch.full((rows,), position)
    kernels(logits, at, lengths, table_of(settings, vocab).rows, out, **options)
    return out.tolist()


def check(logits: torch.Tensor, settings: list[dict[str, float]], tokens: list[int]) -> None:
    for row, (token, chosen) in enumerate(zip(tokens, settings, strict=True)):
        exact = logits[row].float().numpy()
        check_draw(token, exact, SamplingParams(**chosen), row, 7)


@pytest.mark.parametrize(
    ("vocab", "scale", "dtype"),
    [
        (333, 1.0, torch.float32),
        (333, 4.0, torch.bfloat16),
        (256, 0.05, torch.float32),
        (30, 2.0, torch.bfloat16),
    ],
)
def test_draws_are_exact(vocab: int, scale: float, dtype: torch.dtype) -> None:
    """With bfloat16 many scores are equal."""
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(len(MIXES), vocab, generator=generator) * scale).to(dtype)
    settings = list(MIXES)
    check(logits, settings, draw(logits, settings))


def test_rows_without_a_finite_best_break_alone() -> None:
    settings = [{"temperature": t, "top_p": p} for t in (0.0, 1.0) for p in (1.0, 0.5)]
    logits = torch.randn(4, 200, generator=torch.Generator().manual_seed(1))
    for value in (torch.nan, torch.inf):
        broken = logits.clone()
        broken[1:, 150] = value
        assert draw(broken, settings)[1:] == [-1, -1, -1]
    broken[:] = -torch.inf
    broken[0] = logits[0]
    assert draw(broken, settings) == [int(logits[0].argmax()), -1, -1, -1]


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 0.9}, {"top_k": 200}, {"top_k": 150, "top_p": 0.5}, {"top_k": 3}, {"min_p": 0.5}],
)
def test_thresholds_among_equals_and_forbidden_tokens(settings: dict[str, float]) -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))
    logits[0] = 1.5
    logits[1] = logits[1].round()
    logits[2, ::2] = -torch.inf
    logits[3, 40:] = -torch.inf
    check(logits, [settings] * 4, draw(logits, [settings] * 4))


def test_a_row_draws_the_same_alone_and_in_any_batch() -> None:
    settings = [{"top_p": 0.9}, {"temperature": 0.7}, {"top_k": 9}, {"temperature": 0.0}]
    logits = torch.randn(4, 333, generator=torch.Generator().manual_seed(3))
    together = draw(logits, settings)
    alone = [draw(logits[i : i + 1], settings, [i])[0] for i in range(4)]
    order = [2, 0, 3, 1]
    assert together == alone
    assert draw(logits[order], settings, order) == [together[i] for i in order]


@pytest.mark.parametrize("filters", [False, True])
def test_drawn_tokens_are_written_to_the_slot_table(filters: bool) -> None:
    settings = [{}, {"temperature": 0.0}, {"top_p": 0.8} if filters else {}, {}]
    logits = torch.randn(4, 333, generator=torch.Generator().manual_seed(4))
    logits[3, 5] = torch.nan
    tokens = torch.full((5, 20), -5, dtype=torch.int32)
    drawn = draw(logits, settings, position=11, tokens=tokens, filters=filters)
    assert drawn[3] == -1 and min(drawn[:3]) >= 0
    expected = torch.full((5, 20), -5, dtype=torch.int32)
    expected[:3, 11] = torch.tensor(drawn[:3], dtype=torch.int32)
    assert torch.equal(tokens, expected)


def test_rows_may_stand_apart_and_a_stranger_is_refused() -> None:
    logits = torch.randn(2, 400, generator=torch.Generator().manual_seed(5))
    settings = [{}, {"temperature": 0.0}]
    assert draw(logits[:, :200], settings) == draw(logits[:, :200].contiguous(), settings)
    kernels = TritonDraw(max_rows=1, vocab_size=200, device=CPU, shape=SMALL)
    table, at = table_of(settings, 200).rows, torch.zeros(2, dtype=torch.int64)
    for wrong in (logits[:, :200], logits[:1], logits.T[:1, :1].expand(1, 200)):
        with pytest.raises(ValueError, match="up to 1 rows of 200"):
            kernels(wrong, at, at, table, at.clone())
    with pytest.raises(ValueError, match="vocab_size must be 1 to 1048576"):
        TritonDraw(max_rows=1, vocab_size=2**20 + 1, device=CPU)
