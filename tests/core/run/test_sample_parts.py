"""The sampler's parts: random numbers, the search through weights, log-probabilities."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.request import SamplingParams
from quire.core.run.sample import Sampler, prompt_logprobs
from quire.core.run.sample_filters import BLOCK, likeliest, pick
from quire.core.run.sample_random import stream_of, uniform
from quire.core.step import Newcomer

MASK = 2**64 - 1


def split_mix(state: int, count: int) -> list[int]:
    """The published generator, in exact integers."""
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def test_numbers_are_split_mix_64_started_from_a_mixed_seed() -> None:
    # First outputs for the seed 1234567, as published with the generator's C code.
    assert split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]
    for seed in (0, 1, -1, 2**63 - 1, -(2**63) + 1, 2**63 + 100):
        state = split_mix(seed & MASK, 1)[0]
        assert stream_of(seed) & MASK == state
        streams = torch.full((50,), stream_of(seed))
        got = uniform(streams, torch.arange(1, 51))
        want = [(2 * (z >> 12) + 1) / 2**53 for z in split_mix(state, 50)]
        assert got.tolist() == want


def test_numbers_are_uniform_over_seeds_and_over_positions() -> None:
    seeds = torch.tensor([stream_of(seed) for seed in range(20000)])
    over_seeds = uniform(seeds, torch.full((20000,), 12)).numpy()
    over_positions = uniform(seeds[:1].expand(20000), torch.arange(20000)).numpy()
    for sample in (over_seeds, over_positions):
        assert sample.min() > 0 and sample.max() < 1
        assert scipy.stats.kstest(sample, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 0.03


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_draw_never_lands_on_weight_zero(data: st.DataObject) -> None:
    width = BLOCK * data.draw(st.integers(1, 4))
    weight = st.sampled_from([0.0, 0.0, 1e-38, 1e-7, 0.3, 1.0])
    weights = np.zeros(width, dtype=np.float32)
    places = data.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=12))
    weights[places] = data.draw(st.lists(weight, min_size=len(places), max_size=len(places)))
    weights[places[0]] = 1.0
    edges = (2.0**-53, 0.5, 1 - 2.0**-53)
    u = data.draw(st.one_of(st.sampled_from(edges), st.floats(2.0**-53, 1 - 2.0**-53)))
    token = int(pick(torch.from_numpy(weights).unsqueeze(0), torch.tensor([u]).double()))
    assert weights[token] > 0
    sums = np.cumsum(weights.astype(np.float64))
    assert sums[token] >= u * sums[-1] * (1 - 1e-6)
    assert sums[token] - weights[token] <= u * sums[-1] * (1 + 1e-6)


def test_the_last_number_below_one_gives_the_last_token_with_weight() -> None:
    weights = torch.rand(64, 2 * BLOCK) * 1e-3
    weights[:, 200:] = 0
    almost_one = torch.full((64,), 1 - 2.0**-53, dtype=torch.float64)
    assert pick(weights, almost_one).tolist() == [199] * 64
    assert pick(weights, almost_one * 0 + 2.0**-53).tolist() == [0] * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likeliest_takes_the_first_of_equals_and_none_that_is_not_finite(
    dtype: torch.dtype,
) -> None:
    inf, nan = torch.inf, torch.nan
    rows = [[1.0, 3.0, 3.0], [1.0, nan, 9.0], [1.0, inf, 9.0], [-inf] * 3, [-inf, 2.0, -inf]]
    assert likeliest(torch.tensor(rows, dtype=dtype), -7).tolist() == [1, -7, -7, -7, 1]


def test_logprobs_are_those_of_the_model_for_rows_that_ask() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, generator=generator) * 3
    sampler = Sampler(max_slots=4, vocab_size=50, device=torch.device("cpu"))
    sampler.enter(Newcomer(2, [1], 1, 0, SamplingParams(logprobs=3, temperature=0.1)))
    sampler.enter(Newcomer(0, [1], 1, 0, SamplingParams()))
    sampler.enter(Newcomer(1, [1], 1, 0, SamplingParams(logprobs=0, logit_bias={4: 50.0})))
    pending = sampler.logprobs(logits, torch.tensor([7, 8, 4]), [2, 0, 1])
    assert pending is not None
    rows, entries = pending[0], pending[1].read()
    assert rows == [0, 2]
    exact = scipy.special.log_softmax(logits.double().numpy(), axis=-1)
    for entry, row, token, count in zip(entries, rows, (7, 4), (3, 0), strict=True):
        assert entry is not None and entry.token_id == token
        np.testing.assert_allclose(entry.logprob, exact[row, token], atol=1e-5)
        assert entry.rank == 1 + (exact[row] > exact[row, token]).sum()
        best = np.argsort(-exact[row])[:count]
        assert entry.top_ids == best.tolist()
        np.testing.assert_allclose(entry.top_logprobs, exact[row, best], atol=1e-5)
    assert sampler.logprobs(logits[1:2], torch.tensor([1]), [0]) is None
    failed = sampler.logprobs(logits[:1], torch.tensor([-1]), [2])
    assert failed is not None and failed[1].read() == [None]


def test_prompt_logprobs_score_the_given_targets() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.tensor([0, 8, 3, 3])
    entries = prompt_logprobs(logits, targets, 20).read()
    exact = scipy.special.log_softmax(logits.double().numpy(), axis=-1)
    for row, entry in enumerate(entries):
        assert entry is not None and entry.token_id == targets[row]
        np.testing.assert_allclose(entry.logprob, exact[row, targets[row]], atol=1e-5)
        assert sorted(entry.top_ids) == list(range(9))
        assert entry.top_logprobs == sorted(entry.top_logprobs, reverse=True)
    assert prompt_logprobs(logits[:0], targets[:0], 5).read() == []


def test_a_draw_whose_kernel_only_compiles_is_a_token() -> None:
    def compiles(*tensors: object, **options: object) -> None:
        """As a launch does while kernels are compiled ahead."""

    sampler = Sampler(max_slots=4, vocab_size=10, device=torch.device("cpu"), kernels=compiles)
    sampler.enter(Newcomer(0, [1], 1, 0, SamplingParams(temperature=1.0)))
    torch.use_deterministic_algorithms(True)  # Fills what is left uninitialised.
    try:
        lengths = torch.ones(3, dtype=torch.int64)
        tokens = torch.zeros(5, 8, dtype=torch.int32)
        drawn = sampler.draw(
            torch.randn(3, 10), torch.zeros_like(lengths), [0] * 3, lengths, tokens
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert ((drawn >= 0) & (drawn < 10)).all()
