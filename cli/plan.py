"""``quire plan``: what every setting resolves to on this machine, and why."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.markup import escape

from ..core.config import Config
from ..core.registry import Registry
from .console import columns, output
from .options import with_config

__all__ = ("plan",)


@with_config()
def plan(config: Config) -> None:
    """Print the resolved configuration with the reason of each choice; loads no weights."""
    from ..core.resolve import resolve

    resolution = resolve(config, Registry(config.plugins.load))
    written = _flat(msgspec.to_builtins(config))
    default = _flat(msgspec.to_builtins(Config()))
    table = columns("key", "value", "reason")
    for key, value in _flat(msgspec.to_builtins(resolution.config)).items():
        given = "as given" if written[key] != default[key] else "default"
        reason = resolution.reasons.get(key, given)
        table.add_row(key, _secret(key, value), escape(reason))
    output().print(table)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _secret(key: str, value: Any) -> str:
    if key == "server.api_keys" and value:
        return f"{len(value)} given"
    return escape(msgspec.json.encode(value).decode())
