"""Which modules a checkpoint's lists of names mean."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...core.errors import CheckpointError

__all__ = ("compiled", "is_listed")

_LONGEST = 1000
"""Characters of a pattern; those that tools write are far shorter."""


def is_listed(name: str, listed: Iterable[str]) -> bool:
    """Whether one of the names is the module's, or a run of whole parts of it.

    ``self_attn.k_proj`` and ``model.layers.1`` mean what they look like; the latter is not a part
    of ``model.layers.10``.
    """
    return any(f".{entry.strip('.')}." in f".{name}." for entry in listed)


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """A regular expression out of config.json.

    Args:
        pattern: as written there.
        key: under which, for messages.

    Raises:
        CheckpointError: for one that is no regular expression, or overlong.
    """
    if len(pattern) > _LONGEST:
        raise CheckpointError(f"{key} in config.json has a pattern of {len(pattern)} characters")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise CheckpointError(
            f"{key} in config.json has {pattern!r}, which is no regular expression ({error})"
        ) from error
