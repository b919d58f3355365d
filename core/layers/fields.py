"""Fields: config.json read with types, so that a wrong value is refused by its name."""

from __future__ import annotations

import math
from typing import Any

from ..errors import CheckpointError

__all__ = ("Fields",)


class Fields:
    """A config.json, or an object inside it, under its dotted name.

    Every getter takes an optional default for a key that is missing or null; without one the key
    is required.

    Args:
        values: as decoded.
        where: dotted prefix for messages.

    Raises:
        CheckpointError: (every getter) for a missing or unfit value, naming the key.
    """

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = values
        self._where = where

    def names(self) -> list[str]:
        """Every key."""
        return list(self._values)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def integer(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1
    ) -> int:
        """An integer from ``least`` to ``most``."""
        value = self._values.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.misfit(key, f"must be an integer of {least} or more")
        if value > most:
            raise self.misfit(key, f"must be an integer of at most {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self._values.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.misfit(key, "must be a number")
        if not math.isfinite(value) or value <= 0:
            raise self.misfit(key, "must be a positive finite number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, bool):
            raise self.misfit(key, "must be true or false")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: str | None = None) -> str:
        """One of the options."""
        value = self._values.get(key)
        if value is None:
            value = default
        if value not in options:
            raise self.misfit(key, f"must be one of {', '.join(options)}")
        return str(value)

    def string(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise self.misfit(key, "must be a string")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of integers of 0 or more."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
            raise self.misfit(key, "must be a list of integers of 0 or more")
        return value

    def strings(self, key: str, default: list[str] | None = None) -> list[str]:
        """A list of strings."""
        value = self._values.get(key)
        if value is None:
            value = default
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.misfit(key, "must be a list of strings")
        return value

    def section(self, key: str) -> Fields:
        """An object inside this one; empty when it is missing or null."""
        value = self._values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.misfit(key, "must be an object")
        return Fields(value, f"{self._where}{key}.")

    def refuse_unless(self, key: str, supported: object) -> None:
        """Accept a key only when it is missing, null or the one value that is supported."""
        if self._values.get(key) not in (None, supported):
            raise self.misfit(key, f"is supported only as {supported!r}")

    def misfit(self, key: str, problem: str) -> CheckpointError:
        """The error to raise for a key, with its value."""
        value = self._values.get(key)
        found = "nothing is there" if value is None else f"found {value!r}"[:80]
        return CheckpointError(f"{self._where}{key} in config.json {problem}; {found}")
