"""Errors that a user can act on: each says what was wrong, where, and what to do."""

__all__ = (
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "EngineDeadError",
    "GenerationError",
    "InvalidRequest",
    "Overloaded",
    "PluginError",
    "QuireError",
)


class QuireError(Exception):
    """Base of every error that is meant for the reader of a message, not of a traceback."""


class ConfigError(QuireError):
    """A configuration value is unknown, of the wrong kind, or contradicts another."""


class PluginError(QuireError):
    """A plugin is missing, broken, in conflict, or speaks another contract version."""


class CheckpointError(QuireError):
    """A model's files are missing, truncated, or do not describe what is supported."""


class CapacityError(QuireError):
    """Something does not fit: the message holds the numbers and the settings that would fit."""


class InvalidRequest(QuireError):
    """A caller's request is refused before any work is done.

    Args:
        message: what is wrong and what to do, without echoing the input.
        param: the offending field, dotted for nested ones.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Overloaded(QuireError):
    """The waiting queue is full; the caller may try again later."""


class GenerationError(QuireError):
    """A request ended before its time with an error of its own; the engine goes on."""


class EngineDeadError(QuireError):
    """The engine stopped; every request in flight ends with this error."""
