"""Numbers that kernels and those who call them agree on."""

from __future__ import annotations

__all__ = ("COUNTERS", "ITEM", "LANES", "LINES")

COUNTERS = 8
"""Leading arguments of every kernel: zero when it begins, for its threads to count with."""
ITEM = 5
"""Numbers that say which queries a thread of attention takes."""
LANES = 16
"""Elements of a vector."""
LINES = 4
"""Queries of a head that attend together: a thread keeps the scores of so many."""
