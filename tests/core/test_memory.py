"""How often a process of quire's own searches for garbage."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from quire.core.memory import collect_seldom, freeze
class Ring: pass
freeze()
{}
before = sum(part["collections"] for part in gc.get_stats())
ring = Ring()
ring.itself, garbage = ring, weakref.ref(ring)
del ring
live = [[object()] for _ in range(300_000)]
print(sum(part["collections"] for part in gc.get_stats()) - before, int(garbage() is None))
"""


def searches(call: str) -> tuple[int, bool]:
    """While so many objects are made that live on; and whether garbage was found."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call)], capture_output=True, text=True, check=True
    )
    count, found = done.stdout.split()
    return int(count), found == "1"


def test_garbage_is_searched_for_seldom_but_is() -> None:
    usual, seldom = searches(""), searches("collect_seldom()")
    assert usual[1] and seldom[1]
    assert 0 < 4 * seldom[0] < usual[0]
