"""How often a process of quire's own searches for garbage."""

import subprocess
import sys

PROGRAM = """
import gc
from quire.core.memory import collect_seldom, freeze
freeze()
{}
before = [part["collections"] for part in gc.get_stats()]
live = [[object()] for _ in range(300_000)]
print(*(part["collections"] - old for part, old in zip(gc.get_stats(), before)))
ring = []
ring.append(ring)
gc.collect()
"""


def searches(call: str) -> list[int]:
    """By generation, while so many objects are made that live on."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call)], capture_output=True, text=True, check=True
    )
    return [int(count) for count in done.stdout.split()]


def test_garbage_is_searched_for_seldom_but_is() -> None:
    usual, seldom = searches(""), searches("collect_seldom()")
    assert usual[0] > 300 and usual[1] > 30
    assert 20 <= seldom[0] <= 35 and seldom[1:] == [0, 0]
