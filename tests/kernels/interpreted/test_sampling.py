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
SMALL = Shape(chunk=64, group=4, chosen=8, pivots=4, passes=2, listed=32)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab", "scale"), [(333, 1.0), (333, 4.0), (256, 0.05), (30, 2.0)])
def test_draws_are_exact(dtype: torch.dtype, vocab: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(len(MIXES), vocab, generator=generator) * scale).to(dtype)
    settings = list(MIXES)
    check(logits, settings, draw(logits, settings))
