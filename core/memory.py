"""What stays in memory as long as an engine, or a server, does."""

import gc

__all__ = ("collect_seldom", "freeze", "unfreeze")

# Allocations behind which the youngest objects are searched for garbage, such searches behind which
# older ones are, and of those behind which all are. Python 3.12's own are 700, 10 and 10.
_SELDOM = (10_000, 50, 20)


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
