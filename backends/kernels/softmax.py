"""Softmax over keys that come tile by tile (Milakov & Gimelshein, arXiv 1805.02867), in base 2."""

import triton
import triton.language as tl

__all__ = ("fold", "soft_capped", "to_compute")


@triton.jit
def soft_capped(scores, scale, soft_cap):
    """soft_cap * tanh(scores * scale / 2), with scale and soft_cap chosen by the caller."""
    return soft_cap * (1.0 - 2.0 / (tl.exp2(scores * scale) + 1.0))


@triton.jit
def fold(scores, scale, top, total, MAY_HIDE_ALL: tl.constexpr):
    """Take one tile of scores into the running softmax.

    Args:
        scores: float32 [M, N], -inf where hidden.
        scale: positive; what makes scores logarithms to base 2.
        top: float32 [M], the largest scaled score so far.
        total: float32 [M], sum of weights so far.
        MAY_HIDE_ALL: whether a row may have seen no key yet.

    Returns:
        The tile's weights [M, N]; by how much sums over the keys before it fade, [M]; then top and
        total.
    """
    new = tl.maximum(top, tl.max(scores, 1) * scale)
    base = tl.where(new == float("-inf"), 0.0, new) if MAY_HIDE_ALL else new
    weights = tl.exp2(scores * scale - base[:, None])
    fade = tl.exp2(top - base)
    return weights, fade, new, total * fade + tl.sum(weights, 1)


@triton.jit
def to_compute(q, COMPUTE: tl.constexpr):
    """float32 queries in the type that products are made in, which may hold less."""
    if COMPUTE.is_fp16():
        q = tl.clamp(q, -65504.0, 65504.0)
    return q.to(COMPUTE)
