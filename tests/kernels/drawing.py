"""An exact account of one draw, and batches of awkward rows, for the sampling kernels' tests."""

from __future__ import annotations

import numpy as np
import torch

from quire.core.request import SamplingParams
from quire.core.run.sample import Sampler
from quire.core.run.sample_random import stream_of, uniform
from quire.core.step import Newcomer

__all__ = ("MIXES", "check_draw", "make_sampler", "probabilities")

MIXES = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 50, "temperature": 1.7},
    {"top_k": 150},
    {"top_k": 10**6},
    {"top_p": 1e-9},
    {"top_p": 0.5},
    {"top_p": 0.9, "temperature": 0.7},
    {"top_p": 0.999},
    {"min_p": 0.3},
    {"min_p": 1e-4, "temperature": 2.0},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8},
    {"top_k": 170, "top_p": 0.95, "min_p": 0.01},
    {"top_p": 0.95, "min_p": 0.05},
    {"top_k": 100, "min_p": 0.2},
)
"""Parameters, whose numbers suit rows of a few hundred tokens."""


def make_sampler(
    vocab: int, settings: list[dict[str, float]], device: torch.device, **kwargs: object
) -> Sampler:
    """A sampler whose slot i has settings i and seed i."""
    sampler = Sampler(max_slots=len(settings), vocab_size=vocab, device=device, **kwargs)
    for slot, chosen in enumerate(settings):
        sampler.enter(Newcomer(slot, [1], 1, slot, SamplingParams(**chosen)))
    return sampler


def probabilities(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Exact probabilities of the next token, of scores as the sampler rounds them."""
    best = logits.max()
    scores = (logits - best) / np.float32(params.temperature)
    weights = np.exp(scores.astype(np.float64))
    order = np.argsort(-scores, kind="stable")
    k = params.top_k if 0 < params.top_k < len(scores) else len(scores)
    sums = np.cumsum(weights[order[:k]])
    limit = params.top_p * sums[-1] if params.top_p < 1 else np.inf
    kept = min(int(np.searchsorted(sums, limit)) + 1, k)
    lowest = scores[order[kept - 1]]
    if params.min_p > 0:
        lowest = max(lowest, np.float32(np.log(params.min_p)))
    weights[scores < lowest] = 0.0
    return weights / weights.sum()


def check_draw(
    token: int, logits: np.ndarray, params: SamplingParams, seed: int, position: int
) -> None:
    """Whether this is the token at which the cumulative probability passes the random number.

    Raises:
        AssertionError: where it is not, and rounding cannot be why.
    """
    if not np.isfinite(logits.max()):
        assert token == -1
        return
    if params.greedy or params.top_k == 1:
        assert token == int(logits.argmax())
        return
    exact = probabilities(logits, params)
    number = float(uniform(torch.tensor([stream_of(seed)]), torch.tensor([position])))
    sums = np.cumsum(exact)
    # Thresholds that top-p puts between two nearly equal sums may fall on either side.
    slack = 3e-6 + (4 * exact[exact > 0].min() if params.top_p < 1 else 0.0)
    assert 0 <= token < len(logits)
    assert sums[token] - exact[token] - slack <= number <= sums[token] + slack
    assert exact[token] > 0 or slack > 3e-6
