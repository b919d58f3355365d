"""The hooks: what a plugin may implement. Each is called by the engine and used by built-ins."""

from __future__ import annotations

import msgspec
import pluggy

from .metrics import RequestRecord

__all__ = ("PROJECT", "Manifest", "Provision", "QuireHooks", "hookimpl", "hookspec")

PROJECT = "quire"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Provision(msgspec.Struct, frozen=True):
    """One thing a plugin provides.

    Attributes:
        kind: a key of ``quire.core.contracts.VERSIONS``, such as ``policy``.
        name: under which a configuration asks for it; an architecture's name for a model.
        target: ``package.module:attribute``, imported when asked for and not before.
    """

    kind: str
    name: str
    target: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin is and provides, as data that can be read without importing the parts.

    Attributes:
        name: of the plugin.
        version: of the plugin.
        contracts: kind -> the contract version it was written for; one for every kind provided.
        provides: the parts.
    """

    name: str
    version: str
    contracts: dict[str, int]
    provides: tuple[Provision, ...] = ()


class QuireHooks:
    """The specifications; pluggy checks implementations against them by name and arguments."""

    @hookspec
    def quire_manifest(self) -> Manifest:  # type: ignore[empty-body]
        """Say what the plugin provides.

        Called once for each plugin when the registry is built, in every process, before anything
        else of the plugin; it must import nothing heavy and have no side effects.
        """

    @hookspec
    def quire_request_finished(self, record: RequestRecord) -> None:
        """A request ended, for whatever reason.

        Called in the process that took the request, on its event loop: return quickly.
        """
