"""How a suite says that a promise is broken."""

from __future__ import annotations

from ..errors import QuireError

__all__ = ("ConformanceError", "Unchecked", "require")


class ConformanceError(QuireError):
    """An implementation breaks its contract; the message says which promise, and on what."""


class Unchecked(QuireError):
    """A suite cannot judge this implementation here; the message says what it lacks."""


def require(holds: bool, sentence: str) -> None:
    """Go on when the promise holds.

    Raises:
        ConformanceError: with the sentence, when it does not.
    """
    if not holds:
        raise ConformanceError(sentence)
