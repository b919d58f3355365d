"""RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import numpy as np

from .simd import (
    LANES,
    called,
    fma,
    get,
    load,
    load_some,
    long,
    splat,
    store,
    store_some,
    take,
    total,
)

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
        x, out, rows, piece = long(args, 4), long(args, 5), long(args, 6), long(args, 7)
        together, stride = long(args, 8), long(args, 9)
        weight, size, eps = long(args, 10), long(args, 11), get(32, args, 24)
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

    return norm
