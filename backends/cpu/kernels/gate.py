"""Gated activations: act(first half of a row) * second half."""

from __future__ import annotations

import numpy as np

from ..shapes import LANES
from .simd import (
    absolute,
    exp,
    fma,
    inlined,
    load,
    load_some,
    splat,
    store,
    store_some,
    tanh,
    with_sign,
)
from .threads import given, take, wait_for

__all__ = ("make",)

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_ROOT_HALF = np.float32(0.5**0.5)
_TANH_SCALE, _TANH_CUBE = np.float32((2 / np.pi) ** 0.5), np.float32(0.044715)
# Abramowitz and Stegun, 7.1.26: erf within 1.5e-7.
_P = np.float32(0.3275911)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@inlined
def _silu(x):
    return x / (splat(_ONE) + exp(splat(_ZERO) - x))


@inlined
def _gelu_tanh(x):
    cubed = fma(x * x * x, splat(_TANH_CUBE), x) * splat(_TANH_SCALE)
    return splat(_HALF) * x * (splat(_ONE) + tanh(cubed))


@inlined
def _gelu(x):
    scaled = x * splat(_ROOT_HALF)
    far = absolute(scaled)
    t = splat(_ONE) / fma(splat(_P), far, splat(_ONE))
    tail = fma(
        fma(fma(fma(splat(_A5), t, splat(_A4)), t, splat(_A3)), t, splat(_A2)), t, splat(_A1)
    )
    erf = splat(_ONE) - tail * t * exp(splat(_ZERO) - far * far)
    return splat(_HALF) * x * (splat(_ONE) + with_sign(erf, x))


ACTIVATIONS = (_silu, _gelu, _gelu_tanh)


def make(bits: int, which: int):
    """The kernel for rows of so many bits and one of ``ACTIVATIONS``.

    Its arguments: x and out, addresses; rows; how many of them are taken at a time; elements of a
    row of the result.
    """
    activation = ACTIVATIONS[which]

    def gate(args):
        x, out, rows, piece, size = (
            given(args, 0), given(args, 1), given(args, 2), given(args, 3), given(args, 4),
        )  # fmt: skip
        whole, rest = size // LANES * LANES, size % LANES
        while True:
            first = take(args, 0) * piece
            if first >= rows:
                break
            for row in range(first, min(first + piece, rows)):
                at, to = 2 * row * size, row * size
                for i in range(0, whole, LANES):
                    found = activation(load(bits, x, at + i)) * load(bits, x, at + size + i)
                    store(bits, out, to + i, found)
                if rest != 0:
                    found = activation(load_some(bits, x, at + whole, rest))
                    found = found * load_some(bits, x, at + size + whole, rest)
                    store_some(bits, out, to + whole, rest, found)
                take(args, 1)
        wait_for(args, 1, rows)

    return gate
