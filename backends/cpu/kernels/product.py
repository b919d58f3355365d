"""Products of few rows, whose time is that of reading the weights, with what stands around them."""

from __future__ import annotations

import numpy as np

from ..shapes import LANES
from .gate import ACTIVATIONS
from .norm import scale_of
from .simd import called, fma, load, load_some, put, splat, store_some, total
from .threads import given, given_float, room_of_thread, take, wait_for

__all__ = ("make",)

_ZERO = np.float32(0)
# Outputs that are computed together.
_OUTPUTS = 4


@called
def _widen(bits, x, at, size, weight, eps, to):
    """A row in float32, normed if there is a weight."""
    scale = splat(scale_of(bits, x, at, size, eps)) if weight != 0 else splat(np.float32(1))
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        found = load_some(bits, x, at + i, count)
        if weight != 0:
            found = found * scale * load_some(bits, weight, i, count)
        store_some(32, to, i, count, found)


@called
def _sums(bits, x, weight, at, size, outputs, to):
    """A row [size] float32 by so many outputs, whose weights begin at an index."""
    whole = size // LANES * LANES
    rest = size - whole
    output = 0
    while output + _OUTPUTS <= outputs:
        sum0 = sum1 = sum2 = sum3 = splat(_ZERO)
        for i in range(0, whole, LANES):
            found = load(32, x, i)
            sum0 = fma(found, load(bits, weight, at + i), sum0)
            sum1 = fma(found, load(bits, weight, at + size + i), sum1)
            sum2 = fma(found, load(bits, weight, at + 2 * size + i), sum2)
            sum3 = fma(found, load(bits, weight, at + 3 * size + i), sum3)
        if rest != 0:
            found = load_some(32, x, whole, rest)
            sum0 = fma(found, load_some(bits, weight, at + whole, rest), sum0)
            sum1 = fma(found, load_some(bits, weight, at + size + whole, rest), sum1)
            sum2 = fma(found, load_some(bits, weight, at + 2 * size + whole, rest), sum2)
            sum3 = fma(found, load_some(bits, weight, at + 3 * size + whole, rest), sum3)
        put(32, to, output, total(sum0))
        put(32, to, output + 1, total(sum1))
        put(32, to, output + 2, total(sum2))
        put(32, to, output + 3, total(sum3))
        at += _OUTPUTS * size
        output += _OUTPUTS
    while output < outputs:
        summed = splat(_ZERO)
        for i in range(0, size, LANES):
            count = min(LANES, size - i)
            summed = fma(load_some(32, x, i, count), load_some(bits, weight, at + i, count), summed)
        put(32, to, output, total(summed))
        at += size
        output += 1


def make(bits: int, gated: int):
    """The kernel for rows and weights of so many bits, and a gate: 0 for none, or its number + 1.

    Its arguments: x and out, addresses; rows; elements from a row of x to the next; results that a
    thread takes at a time; addresses of a norm's weight, its float32 eps, and of what is added, 0
    for none; of room, its bytes a thread, and for how many; then addresses of the weight and of the
    bias, 0 for none, outputs and inputs. With a gate there are half as many results as outputs.
    """
    activation = ACTIVATIONS[max(gated - 1, 0)]

    @called
    def finished(sums, count, bias, other, out, add, to):
        """Write so many results: sums and, behind them, those of the gate's other half."""
        for i in range(0, count, LANES):
            lanes = min(LANES, count - i)
            found = load_some(32, sums, i, lanes)
            if bias[0] != 0:
                found = found + load_some(bits, bias[0], bias[1] + i, lanes)
            if gated:
                upper = load_some(32, sums, count + i, lanes)
                if bias[0] != 0:
                    upper = upper + load_some(bits, bias[0], bias[1] + other + i, lanes)
                found = activation(found) * upper
            if add != 0:
                found = found + load_some(bits, add, to + i, lanes)
            store_some(bits, out, to + i, lanes, found)

    def product(args):
        x, out, rows, stride, piece = (
            given(args, 0), given(args, 1), given(args, 2), given(args, 3), given(args, 4),
        )  # fmt: skip
        norm, eps, add = given(args, 5), given_float(args, 6, 0), given(args, 7)
        room = room_of_thread(args, 8)
        weight, bias, outputs, size = (
            given(args, 11),
            given(args, 12),
            given(args, 13),
            given(args, 14),
        )
        results = outputs // 2 if gated else outputs
        sums = room + rows * size * 4
        for row in range(rows if room else 0):
            _widen(bits, x, row * stride, size, norm, eps, room + row * size * 4)
        while room:
            first = take(args, 1) * piece
            if first >= results:
                break
            count = min(piece, results - first)
            for row in range(rows):
                at = room + row * size * 4
                _sums(bits, at, weight, first * size, size, count, sums)
                if gated:
                    other = (results + first) * size
                    _sums(bits, at, weight, other, size, count, sums + count * 4)
                finished(sums, count, (bias, first), results, out, add, row * results + first)
            take(args, 2)
        wait_for(args, 2, (results + piece - 1) // piece)

    return product
