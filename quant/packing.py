"""Small integers in 32-bit words, the first in the lowest bits: how checkpoints hold codes.

A run of words is one stream of bits, so 3-bit codes may begin in one word and end in the next.
"""

from __future__ import annotations

import torch

__all__ = ("WIDTHS", "pack", "unpack", "words_for")

WIDTHS = (2, 3, 4, 8)
"""Bits of a code."""

_BYTES_OF_EIGHT = 3
"""Eight 3-bit codes fill as many bytes."""


def words_for(count: int, bits: int) -> int | None:
    """Words that hold so many codes; None where they do not end with a word."""
    words, rest = divmod(count * bits, 32)
    return None if rest else words


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, words] -> uint8 [rows, words * 32 / bits].

    Args:
        words: the stream runs along a row.
        bits: one of WIDTHS.
    """
    held = words.contiguous().flatten().view(torch.uint8).view(len(words), -1)
    if bits == 8:
        return held
    if bits == 3:
        parts = held.view(len(held), -1, _BYTES_OF_EIGHT).to(torch.int32)
        eight = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
        codes = torch.stack([(eight >> 3 * i & 7).to(torch.uint8) for i in range(8)], -1)
    else:
        mask = 2**bits - 1
        codes = torch.stack([held >> shift & mask for shift in range(0, 8, bits)], -1)
    return codes.view(len(held), -1)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, count] -> int32 [rows, count * bits / 32]; the inverse of ``unpack``.

    Args:
        codes: each below 2^bits.
        bits: one of WIDTHS.

    Raises:
        ValueError: when a row does not end with a word.
    """
    if words_for(codes.shape[1], bits) is None:
        raise ValueError(f"{codes.shape[1]} codes of {bits} bits do not end with a word")
    codes = codes.contiguous()
    if bits == 8:
        # Flat first: a single row may keep any stride.
        return codes.flatten().view(torch.int32).view(len(codes), -1)
    if bits == 3:
        parts = codes.view(len(codes), -1, 8).to(torch.int32)
        eight = parts[..., 0].clone()
        for i in range(1, 8):
            eight |= parts[..., i] << 3 * i
        held = torch.stack([(eight >> 8 * i & 255).to(torch.uint8) for i in range(3)], -1)
    else:
        parts = codes.view(len(codes), -1, 8 // bits)
        held = parts[..., 0].clone()
        for i in range(1, 8 // bits):
            held |= parts[..., i] << bits * i
    return held.flatten().view(torch.int32).view(len(codes), -1)
