"""The sampling kernels on a GPU: a CPU's draws, in any batch and in a graph."""

import numpy as np
import pytest
import scipy.stats
import torch

from quire.backends.kernels.sampling import TritonDraw
from quire.core.request import SamplingParams
from quire.core.run.sample import Sampler
from tests.kernels.drawing import MIXES, check_draw, make_sampler, probabilities

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")
VOCAB = 128256
LARGE = (
    {"top_k": 300},
    {"top_k": 5000},
    {"top_k": 20000, "temperature": 1.5},
    {"top_k": 1500, "top_p": 0.9},
    {"top_k": 9000, "top_p": 0.9},
    {"top_k": 9000, "top_p": 0.9, "min_p": 0.01},
)
SETTINGS = [*MIXES, *LARGE]


def sampler_of(settings: list[dict[str, float]], vocab: int = VOCAB) -> Sampler:
    kernels = TritonDraw(max_rows=max(64, len(settings)), vocab_size=vocab, device=GPU)
    return make_sampler(vocab, settings, GPU, kernels=kernels)


def draw(sampler: Sampler, logits: torch.Tensor, slots: list[int], position: int = 7) -> list[int]:
    lengths = torch.full((len(slots),), position, device=GPU)
    tokens = torch.zeros(len(SETTINGS) + 1, 64, dtype=torch.int32, device=GPU)
    at = torch.tensor(slots, device=GPU)
    return sampler.draw(logits, at, slots, lengths, tokens).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [VOCAB, 151936, 50257, 4096])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_draws_are_exact_and_the_same_in_any_batch(
    vocab: int, scale: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(vocab)
    rows = len(SETTINGS)
    logits = (torch.randn(rows, vocab, generator=generator) * scale).to(dtype)
    logits[4, 3::5] = -torch.inf
    logits[9] = 0.5
    logits[10, 77] = torch.nan
    on, sampler, slots = logits.to(GPU), sampler_of(SETTINGS, vocab), list(range(rows))
    drawn = draw(sampler, on, slots)
    for row, token in enumerate(drawn):
        params = SamplingParams(**SETTINGS[row])
        check_draw(token, logits[row].float().numpy(), params, row, 7)
    assert [draw(sampler, on[row : row + 1], [row])[0] for row in slots] == drawn
    order = torch.randperm(rows, generator=generator).tolist()
    assert draw(sampler, on[order], order) == [drawn[row] for row in order]


def test_nearly_all_draws_are_those_of_a_cpu() -> None:
    """A difference needs a random number within rounding of a border between two tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = len(SETTINGS)
    same = total = 0
    for scale in (2.0, 4.0):
        logits = torch.randn(rows, VOCAB, generator=generator) * scale
        cpu = make_sampler(VOCAB, SETTINGS, torch.device("cpu"))
        tokens, slots = torch.zeros(rows, 8, dtype=torch.int32), list(range(rows))
        lengths = torch.full((rows,), 7)
        expected = cpu.draw(logits, torch.arange(rows), slots, lengths, tokens).tolist()
        drawn = draw(sampler_of(SETTINGS), logits.to(GPU), slots)
        same += sum(a == b for a, b in zip(drawn, expected, strict=True))
        total += rows
    assert same >= total - 2


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.8}, {"top_k": 40, "min_p": 0.02}])
def test_many_seeds_follow_the_exact_distribution(settings: dict[str, float]) -> None:
    rows, vocab = 4096, 20000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * 2.5
    kernels = TritonDraw(max_rows=rows, vocab_size=vocab, device=GPU)
    sampler = make_sampler(vocab, [settings] * rows, GPU, kernels=kernels)
    lengths, out = torch.full((rows,), 3, device=GPU), torch.empty(rows, device=GPU).long()
    sampler.upload()
    slots = torch.arange(rows, device=GPU)
    sampler.draw_static(logits.to(GPU).expand(rows, -1), slots, lengths, out)
    exact = probabilities(logits.numpy(), SamplingParams(**settings))
    counts = np.bincount(out.tolist(), minlength=vocab)
    assert counts[exact == 0].sum() == 0
    common = exact * rows >= 8
    got = np.append(counts[common], counts[~common].sum())
    want = np.append(exact[common], exact[~common].sum()) * rows
    got, want = got[want > 0], want[want > 0]
    assert scipy.stats.chisquare(got, want * got.sum() / want.sum()).pvalue > 1e-3


def test_a_graph_follows_changing_parameters() -> None:
    rows = 24
    sampler = sampler_of([{}] * rows)
    logits = torch.randn(rows, VOCAB, device=GPU)
    slots, lengths = torch.arange(rows, device=GPU), torch.full((rows,), 3, device=GPU)
    tokens = torch.zeros(rows + 1, 64, dtype=torch.int32, device=GPU)
    out = torch.empty(rows, dtype=torch.int64, device=GPU)
    sampler.upload()
    sampler.draw_static(logits, slots, lengths, out, tokens=tokens)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sampler.draw_static(logits, slots, lengths, out, tokens=tokens)
    for step in range(8):
        settings = [SETTINGS[(row + 5 * step) % len(SETTINGS)] for row in range(rows)]
        other = sampler_of(settings)
        for slot, row in enumerate(other._table._entered.values()):
            sampler._table.enter(slot, row)
        sampler.upload()
        lengths += 1
        logits.normal_().mul_(step + 0.5)
        graph.replay()
        assert out.tolist() == draw(other, logits, list(range(rows)), int(lengths[0]))
        assert tokens[slots, lengths].tolist() == out.tolist()
