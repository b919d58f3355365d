"""The few numbers of rows and tokens that steps are captured for."""

from __future__ import annotations

__all__ = (
    "graph_length",
    "graph_lengths",
    "graph_rows",
    "graph_sizes",
    "holding_sizes",
    "stand_in_rows",
)

# Rows up to which a step takes about as long as reading the weights.
_FEW_ROWS = 64
# Of those, numbers up to which products of as few tokens take the same time.
_STAND_IN = (16, 32, 64)
# Rows for which cuBLAS chooses a kernel half as fast as for a few more or less (torch 2.11, H200,
# 4096 by 28672 in bfloat16: 278 us, 159 for the number that takes their place).
_SLOW = {448: 464}


def graph_rows(rows: int) -> int:
    """The number of rows that a step of ``rows`` is padded to.

    Below 128 rows a step takes as long as reading the weights, whatever the padding; above, at
    most a quarter is padding.
    """
    if rows <= 8:
        return 1 << (rows - 1).bit_length()
    step = 16 if rows <= 64 else 32 if rows <= 256 else 64 if rows <= 512 else 128
    padded = -(-rows // step) * step
    return _SLOW.get(padded, padded)


def graph_length(tokens: int, most: int) -> int:
    """The length of the longest row that a step with one of so many tokens is captured for."""
    return min(1 << (tokens - 1).bit_length(), most)


def graph_lengths(most: int) -> list[int]:
    """All of those, ascending."""
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def graph_sizes(max_rows: int) -> list[int]:
    """Numbers of rows that steps of up to ``max_rows`` are padded to, ascending."""
    return sorted({graph_rows(rows) for rows in range(1, max_rows + 1)})


def holding_sizes(sizes: list[int], rows: int) -> list[int]:
    """Of these numbers of rows, those in which ``rows`` run without taking much longer."""
    return [size for size in sizes if rows <= size <= max(_FEW_ROWS, rows * 5 // 4)]


def stand_in_rows(sizes: list[int], rows: int) -> int:
    """Of these numbers of rows the one to capture first where nothing holds ``rows`` and their
    number changes: it holds many others, and takes little longer."""
    holding = holding_sizes(sizes, rows)
    return next((size for size in _STAND_IN if size in holding), holding[-1])
