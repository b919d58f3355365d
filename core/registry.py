"""The registry: finds plugins, checks what they say of themselves, and hands out their parts.

Built-in plugins are ordinary modules named in ``DEFAULT_PLUGINS``. Others come by the entry-point
group ``quire.plugins`` and only when the configuration names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module, metadata
from typing import Any

import msgspec
import pluggy

from .contracts import VERSIONS
from .errors import ConfigError, PluginError, QuireError
from .hooks import PROJECT, Manifest, Provision, QuireHooks

__all__ = ("DEFAULT_PLUGINS", "ENTRY_POINTS", "PluginInfo", "Registry", "import_target")

ENTRY_POINTS = "quire.plugins"
DEFAULT_PLUGINS = (
    "quire.core.builtin",
    "quire.backends",
    "quire.quant",
    "quire.plugins.models",
    "quire.plugins.policies",
    "quire.plugins.platforms",
    "quire.plugins.exporters",
    "quire.plugins.speculation",
    "quire.plugins.demo",
    "quire.server",
)


class PluginInfo(msgspec.Struct, frozen=True):
    """A plugin as ``quire plugins list`` shows it.

    Attributes:
        name: of the entry point, or the module of a built-in.
        version: as its manifest says; empty while it is not loaded.
        origin: ``built-in`` or the distribution that installed it.
        active: whether its parts can be used.
        provides: its parts, empty while it is not loaded.
    """

    name: str
    version: str
    origin: str
    active: bool
    provides: tuple[Provision, ...] = ()


class Registry:
    """Named tables of what plugins provide, one a kind.

    Args:
        load: entry-point names to activate beside the built-in plugins.

    Raises:
        PluginError: when a named plugin is missing, fails to import, has no usable manifest,
            provides what another one does, or speaks another contract version.
    """

    def __init__(self, load: Iterable[str] = ()) -> None:
        self.hooks = pluggy.PluginManager(PROJECT)
        self.hooks.add_hookspecs(QuireHooks)
        self._parts: dict[tuple[str, str], tuple[Provision, str]] = {}
        self._plugins: list[PluginInfo] = []
        for module in DEFAULT_PLUGINS:
            self._register(module, import_module(module), "built-in")
        for name in dict.fromkeys(load):
            self._load(name)

    def get(self, kind: str, name: str) -> Any:
        """The part of that kind and name, imported now if it was not yet.

        Raises:
            ConfigError: when nothing provides it; the message lists what there is.
            PluginError: when its import fails.
        """
        found = self._parts.get((kind, name))
        if found is None:
            raise ConfigError(self._unknown(kind, name))
        provision, owner = found
        claim = f"plugin {owner!r} says it provides {kind} {name!r} as {provision.target}, which"
        try:
            part = import_target(provision.target)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{claim} fails to import ({_brief(error)}); update or unload the plugin"
            ) from error
        if not callable(part):
            kind_found = type(part).__name__
            raise PluginError(
                f"{claim} is no class but of type {kind_found}; update or unload the plugin"
            )
        return part

    def make(self, kind: str, name: str, *args: Any, **keywords: Any) -> Any:
        """The part of that kind and name, called with these arguments.

        Raises:
            ConfigError: when nothing provides it, or as the part says.
            PluginError: when its import fails, or the part of a plugin that is not built in fails
                with an error that does not speak to the user.
        """
        part = self.get(kind, name)
        try:
            return part(*args, **keywords)
        except QuireError:
            raise
        except Exception as error:
            owner = self.owner(kind, name)
            if owner in DEFAULT_PLUGINS:
                raise
            raise PluginError(
                f"plugin {owner!r} provides {kind} {name!r}, which fails to start "
                f"({_brief(error)}); update the plugin or choose another {kind}"
            ) from error

    def require(self, kind: str, name: str) -> None:
        """Check that somebody provides the part, without importing it.

        Raises:
            ConfigError: when nothing does; the message lists what there is.
        """
        if (kind, name) not in self._parts:
            raise ConfigError(self._unknown(kind, name))

    def names(self, kind: str) -> list[str]:
        """What is provided of a kind, sorted."""
        return sorted(name for of, name in self._parts if of == kind)

    def owner(self, kind: str, name: str) -> str | None:
        """The plugin that provides a part."""
        found = self._parts.get((kind, name))
        return found[1] if found else None

    def plugins(self) -> list[PluginInfo]:
        """Active plugins, then installed ones that nobody asked for."""
        active = {plugin.name for plugin in self._plugins}
        idle = [
            PluginInfo(point.name, "", _origin(point), active=False)
            for point in _entry_points()
            if point.name not in active
        ]
        return [*self._plugins, *idle]

    def _load(self, name: str) -> None:
        points = [point for point in _entry_points() if point.name == name]
        if not points:
            near = difflib.get_close_matches(name, [p.name for p in _entry_points()], n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "install it or drop it from plugins.load"
            )
            raise PluginError(f"no installed distribution provides the plugin {name!r}; {hint}")
        if len(points) > 1:
            who = " and ".join(sorted(_origin(point) for point in points))
            raise PluginError(
                f"the plugin name {name!r} is claimed by {who}; uninstall all but one of them"
            )
        try:
            plugin = points[0].load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plugin {name!r} of {_origin(points[0])} fails to import ({_brief(error)}); "
                "update it or drop it from plugins.load"
            ) from error
        self._register(name, plugin, _origin(points[0]))

    def _register(self, name: str, plugin: Any, origin: str) -> None:
        try:
            self.hooks.register(plugin, name=name)
            self.hooks.check_pending()
            manifest = self._manifest_of(plugin)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plugin {name!r} of {origin} has no usable manifest ({_brief(error)}); "
                "update it or drop it from plugins.load"
            ) from error
        for part in manifest.provides:
            self._check(part, manifest, name)
            self._parts[part.kind, part.name] = (part, name)
        self._plugins.append(
            PluginInfo(name, manifest.version, origin, active=True, provides=manifest.provides)
        )

    def _manifest_of(self, plugin: Any) -> Manifest:
        others = [p for p in self.hooks.get_plugins() if p is not plugin]
        answers = self.hooks.subset_hook_caller("quire_manifest", others)()
        if len(answers) != 1 or not isinstance(answers[0], Manifest):
            raise TypeError("quire_manifest must be implemented and return a Manifest")
        # A struct checks no types when it is made.
        return msgspec.convert(msgspec.to_builtins(answers[0]), Manifest)

    def _check(self, part: Provision, manifest: Manifest, plugin: str) -> None:
        if part.kind not in VERSIONS:
            raise PluginError(
                f"plugin {plugin!r} provides {part.name!r} of the unknown kind {part.kind!r}; "
                f"kinds are {', '.join(sorted(VERSIONS))}"
            )
        spoken = manifest.contracts.get(part.kind)
        if spoken != VERSIONS[part.kind]:
            raise PluginError(
                f"plugin {plugin!r} speaks version {spoken} of the {part.kind} contract and this "
                f"quire speaks {VERSIONS[part.kind]}; install a matching version of the plugin"
            )
        other = self._parts.get((part.kind, part.name))
        if other is not None:
            raise PluginError(
                f"plugin {plugin!r} provides {part.kind} {part.name!r}, which {other[1]!r} already "
                "does; load only one of them"
            )

    def _unknown(self, kind: str, name: str) -> str:
        names = self.names(kind)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(names) if names else "none"
        idle = [plugin.name for plugin in self.plugins() if not plugin.active]
        supply = f"; installed but not loaded: {', '.join(idle)}" if idle else ""
        return f"no plugin provides {kind} {name!r}{hint} (there is: {listed}{supply})"


def import_target(target: str) -> Any:
    """The attribute that ``package.module:attribute`` names."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _entry_points() -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=ENTRY_POINTS))


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _brief(error: BaseException) -> str:
    """One line of at most 200 characters."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
