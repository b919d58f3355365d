"""``quire plugins``: what is installed, who provides what, and whether it keeps its word."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..core.contracts import VERSIONS
from ..core.errors import PluginError, QuireError
from ..core.registry import ENTRY_POINTS, PluginInfo, Registry, import_target
from .console import columns, output

__all__ = ("app",)

app = typer.Typer(help="Plugins: list them, ask why, check a package.", no_args_is_help=True)
SUITES = "quire.core.conformance:SUITES"
UNCHECKED = "quire.core.conformance.report:Unchecked"
Load = Annotated[list[str] | None, typer.Option("--plugin", help="Load this one too; repeatable.")]


@app.command("list")
def list_plugins(plugin: Load = None) -> None:
    """List active plugins with what they provide, then installed ones that are not loaded."""
    table = columns("plugin", "version", "from", "state", "provides")
    for info in Registry(plugin or ()).plugins():
        provides = "\n".join(f"{part.kind} {part.name}" for part in info.provides)
        state = "active" if info.active else "installed; load it with --plugin " + info.name
        row = (info.name, info.version, info.origin, state, provides)
        table.add_row(*(escape(cell) for cell in row))
    output().print(table)


@app.command("why")
def why(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a plugin or of a part.")],
    plugin: Load = None,
) -> None:
    """Say who provides a name, and what would make it available when nobody does."""
    registry = Registry(plugin or ())
    known = registry.plugins()
    found = [line for info in known for line in _about(info, name)]
    if not found:
        names = {part.name for info in known for part in info.provides}
        names |= {info.name for info in known}
        raise PluginError(_not_found(name, names))
    for line in found:
        typer.echo(line)


@app.command("check")
def check(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="A distribution, or a plugin's name.")
    ],
) -> None:
    """Run the conformance suites over everything a package provides."""
    registry = Registry(_points(package))
    mine = [info for info in registry.plugins() if info.active and _belongs(info, package)]
    if not mine:
        raise PluginError(
            f"no installed distribution or plugin is called {package!r}, or it has no entry point "
            f"in the group {ENTRY_POINTS}; install it"
        )
    suites = import_target(SUITES)
    table = columns("kind", "name", "contract", "result")
    failed = 0
    for part in (part for info in mine for part in info.provides):
        target = registry.get(part.kind, part.name)
        passed, result = _run(suites.get(part.kind), target)
        failed += not passed
        table.add_row(part.kind, escape(part.name), str(VERSIONS[part.kind]), escape(result))
    output().print(table)
    if failed:
        raise typer.Exit(1)


def _run(suite: str | None, target: Any) -> tuple[bool, str]:
    """Whether a part breaks no promise, and what there is to say."""
    if suite is None:
        return True, "not checked: its suite needs cases, which are for the package's own tests"
    try:
        import_target(suite)(target)
    except QuireError as error:
        if isinstance(error, import_target(UNCHECKED)):
            return True, f"not checked: {error}"
        return False, f"fails: {error}"
    except (Exception, SystemExit) as error:
        return False, f"fails with {type(error).__name__}: {error}"
    return True, "passes"


def _about(info: PluginInfo, name: str) -> list[str]:
    lines = []
    if info.name == name:
        state = "is active" if info.active else f"is not loaded; load it with --plugin {name}"
        lines.append(f"plugin {name} of {info.origin} {state}")
    lines += [
        f"{part.kind} {name} is provided by plugin {info.name} ({info.origin} {info.version}), "
        f"as {part.target}"
        for part in info.provides
        if part.name == name
    ]
    return lines


def _not_found(name: str, names: set[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`quire plugins list` shows what there is"
    return f"no plugin is called {name!r} or provides it; {hint}"


def _points(package: str) -> list[str]:
    """The entry points of a distribution, or the one of that name; none for a built-in plugin."""
    points = metadata.entry_points(group=ENTRY_POINTS)
    normal = _normal(package)
    names = [p.name for p in points if p.dist and _normal(p.dist.name) == normal]
    return names or [p.name for p in points if p.name == package]


def _belongs(info: PluginInfo, package: str) -> bool:
    return info.name == package or _normal(info.origin.split(" ")[0]) == _normal(package)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
