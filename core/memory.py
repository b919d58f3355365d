"""What stays in memory as long as an engine, or a server, does."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("collect_seldom", "collecting_seldom", "freeze", "unfreeze")

# Allocations behind which the youngest objects are searched for garbage, such searches behind which
# older ones are, and of those behind which all are. Python 3.12's own are 700, 10 and 10.
_SELDOM = (10_000, 50, 20)

_lock = threading.Lock()
# What each who is within ``collecting_seldom`` has found: the first one, what is usual.
_found: list[tuple[int, int, int]] = []


def freeze() -> None:
    """Let no later search for garbage look through what is here now.

    With torch and transformers loaded a whole search takes a sixth of a second, and every running
    request waits for it.
    """
    gc.collect()
    gc.freeze()


def unfreeze() -> None:
    """Undo it, so that what refers to itself can be freed again."""
    gc.unfreeze()


def collect_seldom() -> None:
    """Search for garbage far more rarely, in a process that is quire's own, once it serves.

    Not before: what loading leaves behind may hold a device's memory, which is then measured.
    Nearly all that a step or a token makes is freed at once, without a search. With hundreds of
    streams Python's own pace takes a twentieth of a core, and every second or two a whole search
    stops everybody for tens of milliseconds.
    """
    gc.set_threshold(*_SELDOM)


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """The same for as long as a batch runs, in a process that is the user's.

    A step for hundreds of sequences makes more lists than Python searches behind, and a whole
    search reads every token of every prompt. Several threads may be within at once: the last one
    brings back what the first has found.
    """
    with _lock:
        _found.append(gc.get_threshold())
        # At 0 nothing is searched, and somebody wants it so.
        if _found[-1][0]:
            collect_seldom()
    try:
        yield
    finally:
        with _lock:
            last = _found.pop()
            if not _found:
                gc.set_threshold(*last)
