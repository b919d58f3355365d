"""What the sampling kernels share: parameters, random numbers, and scores as integers.

A token's score is its logit minus the row's greatest, over the temperature: 0 for the best, and
negative. Its *key* is the bit pattern of the score's magnitude, an integer that grows as the score
falls, so a threshold is searched for among integers. Its *weight* is exp(score) in units of
2**-42, an integer as well: sums of weights are exact, and the same in whatever order and by
however many programs they are made.
"""

import triton
import triton.language as tl

from ...core.run.sample_table import FILTERED, SAMPLED

__all__ = (
    "COLUMNS",
    "IS_FILTERED",
    "IS_SAMPLED",
    "NOTHING",
    "OUTSIDE",
    "UNIT",
    "key_of",
    "parameters",
    "pick",
    "row_best",
    "to_key",
    "uniform",
    "weight_of",
)

IS_SAMPLED = tl.constexpr(SAMPLED)
IS_FILTERED = tl.constexpr(FILTERED)
COLUMNS = tl.constexpr(4)
"""Int64 numbers a slot has in the table of parameters."""
NOTHING = tl.constexpr(0x7F800000)
"""Key of a score of minus infinity."""
OUTSIDE = tl.constexpr(0x7FFFFFFF)
"""Key of what is no token: greater than any."""
UNIT = tl.constexpr(4398046511104.0)
"""Weight of the best token, 2**42: the weights of 2**20 tokens add up to less than 2**63."""


@triton.jit
def parameters(table, slot):
    """stream, top_p, temperature, min_score, top_k, flags of a slot."""
    row = table + slot * COLUMNS
    stream = tl.load(row)
    top_p = tl.load(row + 1).to(tl.float64, bitcast=True)
    pair = tl.load(row + 2)
    temperature = pair.to(tl.int32).to(tl.float32, bitcast=True)
    min_score = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    pair = tl.load(row + 3)
    return stream, top_p, temperature, min_score, pair.to(tl.int32), (pair >> 32).to(tl.int32)


@triton.jit
def uniform(stream, position):
    """SplitMix64's number of a stream at a position: float64 in (0, 1), as on a CPU."""
    z = stream.to(tl.uint64, bitcast=True)
    z += position.to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return ((z >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16


@triton.jit
def to_key(score):
    """Key of a score, 0 or less: a minus zero counts as zero."""
    return tl.abs(score).to(tl.int32, bitcast=True)


@triton.jit
def key_of(logits, best, temperature):
    """Keys of logits. The division rounds as a CPU's does: equal scores there are equal here."""
    return to_key(tl.div_rn(logits - best, temperature))


@triton.jit
def weight_of(keys):
    """Weights of keys, 0 for NOTHING and OUTSIDE."""
    score = tl.where(keys < NOTHING, keys, NOTHING).to(tl.float32, bitcast=True)
    return (tl.exp(-score) * UNIT).to(tl.int64)


@triton.jit
def pick(weights, target):
    """Index of the token at which the sum of weights, in order, passes the target."""
    return tl.sum((tl.cumsum(weights, axis=0) <= target).to(tl.int32), axis=0)


@triton.jit
def row_best(tops, row, num_chunks, BLOCK_CHUNKS: tl.constexpr):
    """The row's greatest logit, from its chunks'."""
    chunks = tl.arange(0, BLOCK_CHUNKS)
    mask = chunks < num_chunks
    return tl.max(tl.load(tops + row * num_chunks + chunks, mask=mask, other=-float("inf")))
