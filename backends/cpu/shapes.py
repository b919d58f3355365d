"""Numbers that kernels and those who call them agree on."""

from __future__ import annotations

__all__ = ("COUNTERS", "LANES", "LINES")

COUNTERS = 8
"""Leading arguments of every kernel: zero when it begins, for its threads to count with."""
LANES = 16
"""Elements of a vector."""
LINES = 4
"""Queries of a head that attend together: a thread keeps the scores of so many."""
