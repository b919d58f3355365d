"""How often a process of quire's own searches for garbage."""

import contextlib
import gc
import subprocess
import sys

from quire.core.memory import collecting_seldom

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


def test_what_a_batch_changes_is_brought_back_by_the_last_to_end() -> None:
    usual = gc.get_threshold()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(collecting_seldom())
        second.enter_context(collecting_seldom())
        assert gc.get_threshold()[0] > usual[0]
        first.close()
        assert gc.get_threshold()[0] > usual[0]
    assert gc.get_threshold() == usual


def test_a_batch_that_fails_changes_nothing() -> None:
    usual = gc.get_threshold()
    with contextlib.suppress(RuntimeError), collecting_seldom():
        raise RuntimeError
    assert gc.get_threshold() == usual


def test_who_searches_for_no_garbage_at_all_goes_on_so() -> None:
    usual = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with collecting_seldom():
            assert gc.get_threshold()[0] == 0
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*usual)
