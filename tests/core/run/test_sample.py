"""The sampler against an exact reference in float64, and against itself in other batches."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from quire.core.request import SamplingParams
from quire.core.run.sample import EXHAUSTED, Sampler
from quire.core.step import Newcomer

CPU = torch.device("cpu")


class Bench:
    """A sampler with slots that hold given tokens."""

    def __init__(self, vocab: int, max_slots: int = 8, max_len: int = 64) -> None:
        self.sampler = Sampler(max_slots=max_slots, vocab_size=vocab, device=CPU)
        # Garbage beyond a slot's length must not matter.
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(
            0, vocab, (max_slots, max_len), generator=generator, dtype=torch.int32
        )
        self.lengths = [0] * max_slots

    def enter(
        self, slot: int, prompt: list[int], output: Sequence[int] = (), seed: int = 0, **kwargs: Any
    ) -> None:
        known = [*prompt, *output]
        extra = {name: kwargs.pop(name) for name in ("stop_ids", "bad_word_ids") if name in kwargs}
        self.sampler.enter(
            Newcomer(slot, known, len(prompt), seed, SamplingParams(**kwargs), **extra)
        )
        self.tokens[slot, : len(known)] = torch.tensor(known, dtype=torch.int32)
        self.lengths[slot] = len(known)

    def draw(self, logits: torch.Tensor, slots: list[int]) -> list[int]:
        lengths = torch.tensor([self.lengths[slot] for slot in slots])
        before = logits.clone()
        drawn = self.sampler.draw(logits, torch.tensor(slots), slots, lengths, self.tokens)
        assert torch.equal(before.nan_to_num(7), logits.nan_to_num(7))
        return drawn.tolist()


def reference(
    logits: np.ndarray, prompt: list[int], output: list[int], params: SamplingParams
) -> np.ndarray:
    """Exact probabilities of the next token."""
    x = logits.astype(np.float64)
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    if params.allowed_token_ids is not None:
        x = np.array([v if t in params.allowed_token_ids else -np.inf for t, v in enumerate(x)])
    for token in set(prompt + output):
        r = params.repetition_penalty
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(output):
        x[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    if params.greedy or params.top_k == 1:
        return np.eye(len(x))[int(np.argmax(x))]
    p = np.exp((x - x.max()) / params.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    k = params.top_k if params.top_k > 0 else len(p)
    best = order[:k]
    shares = p[best] / p[best].sum()
    count = 1
    while shares[:count].sum() < params.top_p and count < len(best):
        count += 1
    kept = p >= p[best[count - 1]]
    kept &= p >= params.min_p * p.max()
    p = np.where(kept, p, 0)
    return p / p.sum()


def chi_square(drawn: list[int], probabilities: np.ndarray) -> float:
    """The p-value of these draws; rare tokens are taken together."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities * len(drawn)
    common = expected >= 8
    got, want = counts[common], expected[common]
    if (rare := expected[~common].sum()) > 0:
        got, want = np.append(got, counts[~common].sum()), np.append(want, rare)
    if len(want) == 1:
        return 1.0
    return float(scipy.stats.chisquare(got, want * got.sum() / want.sum()).pvalue)


PROMPT = [3, 5, 5, 7, 11]
OUTPUT = [2, 2, 2, 7, 19]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.8},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "top_k_p": {"top_k": 12, "top_p": 0.8, "temperature": 1.3},
    "all_filters": {"top_k": 15, "top_p": 0.95, "min_p": 0.1, "temperature": 1.5},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": -0.9},
    "repetition": {"repetition_penalty": 1.7},
    "penalties": {
        "presence_penalty": -0.5,
        "frequency_penalty": 0.4,
        "repetition_penalty": 0.7,
        "top_p": 0.9,
    },
    "bias": {"logit_bias": {0: 3.0, 9: -100.0}, "top_k": 10},
    "allowed": {"allowed_token_ids": [1, 4, 7, 30], "temperature": 2.0},
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.4},
    "top_1": {"top_k": 1, "presence_penalty": 1.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    vocab, rows = 40, 6000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * 1.5
    bench = Bench(vocab, max_slots=rows, max_len=16)
    for slot in range(rows):
        bench.enter(slot, PROMPT, OUTPUT, seed=slot, **SETTINGS[name])
    drawn = bench.draw(logits.expand(rows, -1).contiguous(), list(range(rows)))
    exact = reference(logits.numpy(), PROMPT, OUTPUT, SamplingParams(**SETTINGS[name]))
    assert chi_square(drawn, exact) > 1e-3


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 600}, {"top_k": 900, "top_p": 0.8}])
def test_a_nucleus_wider_than_the_first_look_is_exact(settings: dict[str, Any]) -> None:
    vocab, rows = 1000, 4000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(4)) * 0.3
    bench = Bench(vocab, max_slots=rows, max_len=4)
    for slot in range(rows):
        bench.enter(slot, [1], seed=slot, **settings)
    drawn = bench.draw(logits.expand(rows, -1).contiguous(), list(range(rows)))
    exact = reference(logits.numpy(), [1], [], SamplingParams(**settings))
    assert (exact > 0).sum() > 500
    assert chi_square(drawn, exact) > 1e-3


def test_the_positions_of_one_seed_are_independent_draws() -> None:
    vocab, length = 16, 4096
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(5))
    bench = Bench(vocab, max_slots=1, max_len=length)
    bench.enter(0, [1], seed=77)
    drawn = []
    for bench.lengths[0] in range(1, length):
        drawn += bench.draw(logits, [0])
    exact = reference(logits[0].numpy(), [1], [], SamplingParams())
    assert chi_square(drawn, exact) > 1e-3
    pairs = [a * vocab + b for a, b in itertools.pairwise(drawn)][::2]
    assert chi_square(pairs, np.outer(exact, exact).ravel()) > 1e-3


def test_a_row_draws_the_same_alone_and_in_any_batch() -> None:
    vocab = 1000
    settings = [*SETTINGS.values(), {"min_tokens": 9, "stop_ids": [1, 2]}]
    bench = Bench(vocab, max_slots=len(settings))
    for slot, chosen in enumerate(settings):
        bench.enter(slot, PROMPT, OUTPUT * (slot % 3), seed=slot - 5, bad_word_ids=[[7]], **chosen)
    generator = torch.Generator().manual_seed(6)
    for scale in (0.2, 1.0, 5.0):
        logits = torch.randn(len(settings), vocab, generator=generator) * scale
        slots = list(range(len(settings)))
        together = bench.draw(logits, slots)
        alone = [bench.draw(logits[slot : slot + 1], [slot])[0] for slot in slots]
        order = torch.randperm(len(slots), generator=generator).tolist()
        shuffled = bench.draw(logits[order], order)
        assert together == alone
        assert [together[slot] for slot in order] == shuffled


def test_a_preempted_sequence_goes_on_with_the_same_draws() -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(7))
    settings = {"temperature": 1.2, "frequency_penalty": 0.5, "repetition_penalty": 1.1}
    bench = Bench(50)
    bench.enter(0, [1, 2], seed=9, **settings)
    emitted: list[int] = []
    for step in range(20):
        if step % 7 == 6:
            bench.enter(step % 8, [1, 2], emitted, seed=9, **settings)
        slot = 0 if step < 6 else (step - (step + 1) % 7) % 8
        token = bench.draw(logits[step : step + 1], [slot])[0]
        bench.tokens[slot, bench.lengths[slot]] = token
        bench.lengths[slot] += 1
        emitted.append(token)
    whole = Bench(50)
    for step in range(20):
        whole.enter(3, [1, 2], emitted[:step], seed=9, **settings)
        assert whole.draw(logits[step : step + 1], [3]) == [emitted[step]]


def test_allowed_tokens_bias_and_bad_words_hold_for_greedy_and_sampled_rows() -> None:
    logits = torch.arange(10, dtype=torch.float32).repeat(6, 1)
    bench = Bench(10)
    for slot, temperature in ((0, 0.0), (1, 0.01)):
        bench.enter(slot, [1], allowed_token_ids=[2, 4], temperature=temperature)
        bench.enter(slot + 2, [1], logit_bias={3: 100.0}, temperature=temperature)
        bench.enter(slot + 4, [1], bad_word_ids=[[9], [8]], temperature=temperature)
    assert bench.draw(logits, list(range(6))) == [4, 4, 3, 3, 7, 7]


def test_bad_words_of_several_tokens_are_never_completed() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]).repeat(4, 1)
    bench = Bench(5)
    words = [[1, 2, 4], [3, 3], [0, 0, 0, 0, 0, 0, 3]]
    bench.enter(0, [1], [2], temperature=0, bad_word_ids=words)
    bench.enter(1, [2], [1], temperature=0, bad_word_ids=words)
    bench.enter(2, [3, 1, 2], temperature=0, bad_word_ids=words)
    bench.enter(3, [2], temperature=0, bad_word_ids=[*words, [4]])
    assert bench.draw(logits, [0, 1, 2, 3]) == [3, 4, 3, 3]
    bench.enter(0, [4], [3], temperature=0, bad_word_ids=[[3, 4], [3, 3], [4]])
    assert bench.draw(logits[:1], [0]) == [2]


def test_stop_tokens_wait_for_min_tokens() -> None:
    logits = torch.tensor([[0.0, 5.0, 9.0]])
    bench = Bench(3)
    drawn = []
    for count in range(4):
        bench.enter(0, [0, 0], [1] * count, temperature=0, min_tokens=2, stop_ids=[2, 2])
        drawn += bench.draw(logits, [0])
    assert drawn == [1, 1, 2, 2]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_broken_row_fails_alone(temperature: float) -> None:
    vocab = 300
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(6, vocab, generator=generator)
    bench = Bench(vocab)
    for slot in range(6):
        top_p = 0.5 if slot % 2 else 1.0
        bench.enter(slot, [1], seed=slot, temperature=temperature, top_p=top_p, min_p=0.01)
    healthy = bench.draw(logits, list(range(6)))
    broken = logits.clone()
    broken[0, 17] = torch.nan
    broken[1] = torch.nan
    broken[3, 5] = torch.inf
    broken[4] = -torch.inf
    assert bench.draw(broken, list(range(6))) == [-1, -1, healthy[2], -1, -1, healthy[5]]
    assert bench.draw(logits, list(range(6))) == healthy


def test_a_slot_forgets_its_last_sequence() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    bench = Bench(4)
    bench.enter(
        0,
        [3],
        temperature=0,
        logit_bias={0: 50.0},
        allowed_token_ids=[0, 1],
        min_tokens=9,
        logprobs=2,
        repetition_penalty=3.0,
        stop_ids=[3],
        bad_word_ids=[[2]],
    )
    assert bench.draw(logits, [0]) == [0]
    assert bench.sampler.logprobs(logits, torch.tensor([0]), [0]) is not None
    bench.enter(0, [3], temperature=0)
    assert bench.draw(logits, [0]) == [3]
    assert bench.sampler.logprobs(logits, torch.tensor([3]), [0]) is None


def test_ids_beyond_the_vocabulary_are_ignored() -> None:
    logits = torch.tensor([[1.0, 2.0]])
    bench = Bench(2)
    bench.enter(
        0,
        [1],
        temperature=0,
        logit_bias={2: 100.0},
        allowed_token_ids=[1, 900],
        min_tokens=1,
        stop_ids=[4],
        bad_word_ids=[[0, 77]],
    )
    assert bench.draw(logits, [0]) == [1]


def test_top_k_keeps_ties() -> None:
    rows = 400
    logits = torch.tensor([[0.0, 3.0, 3.0, 3.0, 1.0]]).repeat(rows, 1)
    bench = Bench(5, max_slots=rows)
    for slot in range(rows):
        bench.enter(slot, [1], seed=slot, top_k=2)
    assert set(bench.draw(logits, list(range(rows)))) == {1, 2, 3}


def test_nothing_allowed_is_reported() -> None:
    bench = Bench(3)
    bench.enter(0, [1], allowed_token_ids=[2], bad_word_ids=[[2]])
    assert bench.draw(torch.zeros(1, 3), [0]) == [EXHAUSTED]
