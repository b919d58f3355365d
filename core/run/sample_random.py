"""One uniform number for every (seed, position), the same on any device and in any batch."""

from __future__ import annotations

import torch

__all__ = ("stream_of", "uniform")

# SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 2**64 - 1


def stream_of(seed: int) -> int:
    """Where the stream of a seed starts: neighbouring seeds land far apart.

    Args:
        seed: any integer; its low 64 bits count.

    Returns:
        A 64-bit state, as the signed integer that an int64 tensor holds.
    """
    z = (seed + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return _signed(z ^ (z >> 31))


def uniform(streams: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The number of each stream at a position.

    Args:
        streams: int64 [M], from ``stream_of``.
        positions: int64 [M], 0 or more.

    Returns:
        float64 [M], strictly between 0 and 1, a multiple of 2**-53.
    """
    z = positions * _signed(_GAMMA)
    z += streams
    z = _shift_xor(z, 30).mul_(_signed(_MIX_1))
    z = _shift_xor(z, 27).mul_(_signed(_MIX_2))
    z = _shift_xor(z, 31)
    top = (z >> 12).bitwise_and_(2**52 - 1)
    return top.to(torch.float64).add_(0.5).mul_(2.0**-52)


def _shift_xor(z: torch.Tensor, bits: int) -> torch.Tensor:
    """z ^ (z >>> bits): torch shifts int64 with the sign, so its copies are masked away."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1).bitwise_xor_(z)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
