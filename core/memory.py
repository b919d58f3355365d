"""What stays in memory as long as an engine, or a server, does."""

import gc

__all__ = ("freeze", "unfreeze")


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
