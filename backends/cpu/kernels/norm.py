"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import numpy as np

from ..shapes import LANES
from .simd import called, fma, load, load_some, splat, store, store_some, total
from .threads import given, given_float, take, wait_for

__all__ = ("make", "scale_of")

_ZERO, _ONE = np.float32(0), np.float32(1)


@called
def scale_of(bits, x, at, size, eps):
    """1 / sqrt(mean(row^2) + eps) of a row that begins at an index."""
    whole, rest = size // LANES * LANES, size % LANES
    even = odd = splat(_ZERO)
    for i in range(0, whole - LANES, 2 * LANES):
        low, high = load(bits, x, at + i), load(bits, x, at + i + LANES)
        even, odd = fma(low, low, even), fma(high, high, odd)
    if whole % (2 * LANES) != 0:
        low = load(bits, x, at + whole - LANES)
        even = fma(low, low, even)
    if rest != 0:
        low = load_some(bits, x, at + whole, rest)
        odd = fma(low, low, odd)
    return _ONE / np.sqrt(total(even + odd) / np.float32(size) + eps)


def make(bits: int):
    """The kernel for rows and weights of so many bits.

    Its arguments: x and out, addresses; rows; how many of them are taken at a time; how many lie
    back to back in x, and elements from the first of these to the next such; the weight's address;
    elements of a row; float32 eps.
    """

    def norm(args):
        x, out, rows, piece = given(args, 0), given(args, 1), given(args, 2), given(args, 3)
        together, stride = given(args, 4), given(args, 5)
        weight, size, eps = given(args, 6), given(args, 7), given_float(args, 8, 0)
        whole, rest = size // LANES * LANES, size % LANES
        while True:
            first = take(args, 0) * piece
            if first >= rows:
                break
            for row in range(first, min(first + piece, rows)):
                at, to = row // together * stride + row % together * size, row * size
                scale = splat(scale_of(bits, x, at, size, eps))
                for i in range(0, whole, LANES):
                    found = load(bits, x, at + i) * scale * load(bits, weight, i)
                    store(bits, out, to + i, found)
                if rest != 0:
                    found = load_some(bits, x, at + whole, rest) * scale
                    found = found * load_some(bits, weight, whole, rest)
                    store_some(bits, out, to + whole, rest, found)
                take(args, 1)
        wait_for(args, 1, rows)

    return norm
