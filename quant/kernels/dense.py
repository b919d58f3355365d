"""Weights written out in 16 bits, for products of so many tokens that this costs little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar
from weakref import WeakValueDictionary

import torch
import triton
import triton.language as tl

from ...core.contracts.platform import Kernels
from .decode import bytes_of, nibbles, places, row_vector, tile_zeros, whole, zero_line
from .packed import Packed

__all__ = ("Scratch", "write_out")

_ROWS = 64
_CHUNK = 2**26
"""Entries of a matrix that are written out at a time."""
_Key = tuple[torch.dtype, torch.device]


class Scratch:
    """Memory that products of one dtype and device write matrices out into, one after the other.

    It is made when the first of them does so, for the largest until then, is freed with the last of
    them, and stays where it is, as captured graphs need: who asks for more gets another, which
    serves those to come.

    Args:
        dtype: of the activations.
        device: of the products.
    """

    _shared: ClassVar[WeakValueDictionary[_Key, Scratch]] = WeakValueDictionary()

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._size = 0
        self._memory: torch.Tensor | None = None
        self._dtype = dtype
        self._device = device

    @classmethod
    def of(cls, n: int, k: int, dtype: torch.dtype, device: torch.device) -> Scratch:
        """What a product with a matrix [n, k] keeps as long as it may multiply."""
        size = _chunk(n, k) * k
        shared = cls._shared.get((dtype, device))
        if shared is None or (shared._memory is not None and shared._size < size):
            shared = cls._shared[dtype, device] = cls(dtype, device)
        shared._size = max(shared._size, size)
        return shared

    def chunks(self, n: int, k: int) -> Iterator[tuple[int, torch.Tensor]]:
        """For each chunk of a matrix [n, k] its first row and where to write it, [rows, k]."""
        if self._memory is None:
            self._memory = torch.empty(self._size, dtype=self._dtype, device=self._device)
        rows = _chunk(n, k)
        for first in range(0, n, rows):
            count = min(rows, n - first)
            yield first, self._memory[: count * k].view(count, k)


def _chunk(n: int, k: int) -> int:
    """Rows that are written out at a time."""
    return min(max(_CHUNK // k // _ROWS, 1) * _ROWS, n)


@triton.jit(do_not_specialize=["first"])
def _write_out(
    w_ptr, scale_ptr, zero_ptr, out_ptr, first, N: tl.constexpr, K: tl.constexpr,
    TALL: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, PART: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A tile of the matrix; rows count from the first of the output."""
    DTYPE: tl.constexpr = out_ptr.dtype.element_ty
    SLICES: tl.constexpr = 16 // BITS
    R: tl.constexpr = ROWS // 16
    U: tl.constexpr = PART // (16 * SLICES)
    LINE: tl.constexpr = TALL * 16
    step = tl.program_id(0)
    base = tl.program_id(1) * ROWS
    w_at = w_ptr + (step * U).to(tl.int64) * LINE + (first + base) * 16
    words = tl.load(w_at + tl.arange(0, U)[:, None] * LINE + tl.arange(0, R * 256)[None, :])
    words = tl.reshape(words, (U, R, 8, 4, 2, 2, 2))
    place, group = places(first + base, N, R), step // PARTS
    zero = place
    if ZERO:
        zero = tl.load(zero_ptr + zero_line(group, BITS) * N + place)
    zero = tile_zeros(zero, group, DTYPE, BITS, ZERO, R, U)
    scale = row_vector(tl.load(scale_ptr + group * N + place).to(tl.float32), R, U)
    if SLICES == 2:
        a, b = bytes_of(words, zero)
        y = tl.join(a.to(tl.float32) * scale, b.to(tl.float32) * scale)
    else:
        a, b, c, d = nibbles(words, zero, zero, False, ASM)
        y = tl.join(
            tl.join(a.to(tl.float32) * scale, b.to(tl.float32) * scale),
            tl.join(c.to(tl.float32) * scale, d.to(tl.float32) * scale),
        )
    y = whole(y, R, U, SLICES).to(DTYPE)
    rows = base + tl.arange(0, ROWS)
    columns = step * PART + tl.arange(0, PART)
    mask = (first + rows < N)[:, None] & (columns < K)[None, :]
    tl.store(out_ptr + rows.to(tl.int64)[:, None] * K + columns[None, :], y, mask=mask)


def write_out(weight: Packed, out: torch.Tensor, kernels: Kernels, *, first: int = 0) -> None:
    """Rows of the matrix, each entry rounded once.

    Args:
        weight: [N, K]; its order is left to who multiplies.
        out: [rows, K] contiguous, in the activations' dtype; a multiple of 64 rows, or all that
            are left.
        kernels: the platform's.
        first: row of the weight that is the output's first, a multiple of 16.
    """
    rows = min(out.shape[0], weight.n - first)
    steps = -(-weight.k // weight.part)
    kernels.launch(
        _write_out,
        (steps, -(-rows // _ROWS)),
        weight.words,
        weight.scales,
        weight.zeros,
        out,
        first,
        weight.n,
        weight.k,
        -(-weight.n // 16) * 16,
        weight.bits,
        weight.zeros is not None,
        weight.part,
        weight.parts,
        _ROWS,
        not out.is_cpu,
    )
