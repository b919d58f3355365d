"""Policies: a pure ranking, and a victim among those who run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from ..contracts.policy import Candidate, Policy
from .report import require

__all__ = ("check_policy",)


def check_policy(factory: Callable[[], Policy]) -> None:
    """Check a policy.

    Args:
        factory: makes one.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    policy = factory()
    candidates = [
        Candidate(f"r{index}", priority, arrival, tokens, limit, salt)
        for index, (priority, arrival, tokens, limit, salt) in enumerate(
            itertools.product((-5, 0, 7), (0.5, 20.0), (1, 4000), (1, 100_000), ("", "tenant"))
        )
    ]
    ranks = [policy.rank(candidate) for candidate in candidates]
    for rank in ranks:
        require(isinstance(rank, tuple) and bool(rank), f"rank gave {rank!r}, not a filled tuple")
        numbers = all(isinstance(part, int | float) and not math.isnan(part) for part in rank)
        require(numbers, f"rank gave {rank!r}, which has parts that are no numbers")
    require(len({len(rank) for rank in ranks}) == 1, "ranks differ in length, so in meaning")
    again = [policy.rank(candidate) for candidate in reversed(candidates)]
    require(again[::-1] == ranks, "rank depends on what was ranked before; it must be pure")
    require([factory().rank(c) for c in candidates] == ranks, "two policies rank differently")
    for count in (1, 2, len(candidates)):
        running = candidates[:count]
        victim = policy.victim(running)
        require(
            isinstance(victim, int) and 0 <= victim < count,
            f"victim gave {victim!r} among {count} running sequences",
        )
        require(running == candidates[:count], "victim changed the list it was given")
    require(
        policy.victim(candidates) == policy.victim(candidates),
        "victim gave two answers to one question",
    )
