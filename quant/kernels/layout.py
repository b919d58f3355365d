"""Integers in the order in which the matrix units read them.

The matrix units of Ampere and Hopper take 16 rows x 16 columns of 16-bit operands, eight to a
thread: thread t of a warp holds, for h in (0, 1), the rows t // 4 + 8 h and the columns
2 (t % 4) + (0, 1) and 8 + 2 (t % 4) + (0, 1) of them. A *unit* here is such a tile whose operands
are 16-bit words of several codes: bits 4 i and on (of two codes, 8 i and on) hold column 16 i + j
of the unit, where j is the word's column in the tile. A thread reads its eight words by one
instruction, takes the codes of two neighbouring columns out of two words at once, and has
operands.

Units lie in the order [column of units, row of units], so the rows of a tile are contiguous.
"""

from __future__ import annotations

import torch

__all__ = ("SLACK", "pack", "unit_depth", "unpack")

_ROWS = 16
_WORDS = 256
"""Of a unit."""
SLACK = 128 // _ROWS * _WORDS
"""Words behind the last, which a tile of up to 128 rows may read and not use."""
_PIECE = 2**26
"""Codes packed at a time, to bound the memory that packing takes."""


def unit_depth(bits: int) -> int:
    """Columns of a unit of codes of so many bits, 4 or 8."""
    return 16 * (16 // bits)


def pack(codes: torch.Tensor, bits: int, depth: int) -> torch.Tensor:
    """Codes as words.

    Args:
        codes: uint8 [N, K], each below 2^bits.
        bits: 4 or 8.
        depth: K is filled up to a multiple of it, itself a multiple of a unit's.

    Returns:
        int16 [units of K * ceil(N / 16) * 256 + SLACK]; what was filled up is 0.
    """
    n, k = codes.shape
    unit = unit_depth(bits)
    blocks, units = -(-n // _ROWS), -(-k // depth) * depth // unit
    words = torch.zeros(units * blocks * _WORDS + SLACK, dtype=torch.int16, device=codes.device)
    whole = words[: units * blocks * _WORDS].view(units, blocks, _WORDS)
    step = max(_PIECE // (units * unit * _ROWS), 1)
    for first in range(0, blocks, step):
        piece = codes[first * _ROWS : (first + step) * _ROWS]
        whole[:, first : first + step] = _words(piece, bits, units)
    return words


def _words(codes: torch.Tensor, bits: int, units: int) -> torch.Tensor:
    """Of some rows: int16 [units, ceil(rows / 16), 256]."""
    n, k = codes.shape
    slices = 16 // bits
    blocks = -(-n // _ROWS)
    padded = codes.new_zeros(blocks * _ROWS, units * 16 * slices)
    padded[:n, :k] = codes
    # Rows: block, half, t // 4. Columns: unit, slice, half, t % 4, one of two.
    tiles = padded.view(blocks, 2, 8, units, slices, 2, 4, 2).permute(3, 0, 2, 6, 5, 1, 7, 4)
    words = tiles[..., 0].int()
    for i in range(1, slices):
        words |= tiles[..., i].int() << (bits * i)
    return words.to(torch.int16).reshape(units, blocks, _WORDS)


def unpack(words: torch.Tensor, bits: int, n: int, k: int, depth: int) -> torch.Tensor:
    """The codes that ``pack`` was given: uint8 [n, k]."""
    slices = 16 // bits
    blocks, units = -(-n // _ROWS), -(-k // depth) * depth // (16 * slices)
    tiles = words[: units * blocks * _WORDS].view(units, blocks, 8, 4, 2, 2, 2).int()
    codes = torch.stack([tiles >> (bits * i) & (2**bits - 1) for i in range(slices)], -1)
    # As in _words, the other way round.
    codes = codes.permute(1, 5, 2, 0, 7, 4, 3, 6).reshape(blocks * _ROWS, units * 16 * slices)
    return codes[:n, :k].to(torch.uint8)
