"""Kernels that are run only with numbers of rows that give every row the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch

__all__ = (
    "SIZES",
    "alike_sizes",
    "in_proven_pieces",
    "next_sizes",
    "proven_sizes",
    "steady_sizes",
    "zeros",
)

Product = Callable[[torch.Tensor], torch.Tensor]

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of rows tried; more rows are taken in pieces."""
_ODD = (5, 7)
"""That few kernels are made for."""
_BATCH = 16
"""Rows that a good kernel takes at once."""


def in_proven_pieces(
    kernel: Product, columns: int, dtype: torch.dtype, steady: list[int] | None = None
) -> Product:
    """The kernel, run with the numbers of rows that it was seen to be steady for.

    Args:
        kernel: [rows, columns] in the dtype -> [rows, any].
        columns: of its input.
        dtype: of its input.
        steady: what ``proven_sizes`` found for a kernel alike; None to find it for this one.
    """
    if steady is None:
        steady = proven_sizes(kernel, columns, dtype)
    if not steady:
        return kernel
    table = next_sizes(steady, SIZES[-1])

    def piece(x: torch.Tensor) -> torch.Tensor:
        rows = len(x)
        missing = table[rows] - rows
        if not missing:
            return kernel(x)
        return kernel(torch.cat((x, zeros(columns, dtype)[:missing])))[:rows]

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if len(x) <= SIZES[-1]:
            return piece(x)
        return torch.cat([piece(part) for part in torch.split(x, SIZES[-1])])

    return multiply


def proven_sizes(kernel: Product, columns: int, dtype: torch.dtype) -> list[int]:
    """Numbers of rows for which a kernel is steady, of those that batches are cut into."""
    return steady_sizes(kernel, columns, dtype, SIZES)


@cache
def zeros(columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows to fill a batch up with, [256, columns]."""
    return torch.zeros(SIZES[-1], columns, dtype=dtype)


def steady_sizes(
    kernel: Product, columns: int, dtype: torch.dtype, sizes: Iterable[int]
) -> list[int]:
    """The numbers of rows that give each row the bits that the last of them gives every row."""
    row = torch.linspace(-3, 5, columns).sin().to(dtype)
    tried = list(sizes)
    with torch.inference_mode():
        expected = kernel(row.expand(tried[-1], -1).contiguous())[-1]
        return [
            size
            for size in tried
            if bool((kernel(row.expand(size, -1).contiguous()) == expected).all())
        ]


def alike_sizes(kernel: Product, row: torch.Tensor) -> list[int]:
    """Neighbouring numbers of rows, of those tried, that give a row [columns] the same bits.

    They begin with the least that has such neighbours up to a good batch. Odd ones among them that
    differ are left out.
    """
    run: list[int] = []
    with torch.inference_mode():
        expected = row
        for size in SIZES:
            found = kernel(row.expand(size, -1).contiguous())
            if run and bool((found == expected).all()):
                run.append(size)
            elif size in _ODD:
                continue
            elif run and run[-1] >= _BATCH:
                break
            else:
                run, expected = [size], found[-1]
    return run


def next_sizes(steady: list[int], largest: int) -> list[int]:
    """For each number of rows, the least steady one that holds it."""
    return [min(size for size in steady if size >= rows) for rows in range(largest + 1)]
