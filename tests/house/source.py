"""The package's source as data: modules, their trees, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "backends", "quant", "plugins", "server", "cli")


class Module(NamedTuple):
    """One file of the package.

    Attributes:
        path: relative to the root, with slashes.
        tree: parsed.
        lines: how many.
    """

    path: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The top folder, or "" for files at the root."""
        return self.path.split("/")[0] if "/" in self.path else ""


class Import(NamedTuple):
    """One imported module, absolute, without ``quire.`` resolved away.

    Attributes:
        name: dotted; inside the package it starts with ``quire.``.
        line: where.
        typing_only: under ``if TYPE_CHECKING``.
        lazy: inside a function.
        relative: written with leading dots.
    """

    name: str
    line: int
    typing_only: bool
    lazy: bool
    relative: bool


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the package, tests and examples left out."""
    paths = [ROOT / "__init__.py", ROOT / "__main__.py"]
    for room in ROOMS:
        paths += sorted((ROOT / room).rglob("*.py"))
    found = []
    for path in paths:
        text = path.read_text()
        found.append(Module(path.relative_to(ROOT).as_posix(), ast.parse(text), text.count("\n")))
    return tuple(found)


def imports(module: Module) -> Iterator[Import]:
    """What a module imports, wherever in the file."""
    yield from _visit(module.tree, module, typing_only=False, lazy=False)


def _visit(node: ast.AST, module: Module, *, typing_only: bool, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, typing_only, lazy, relative=False)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, module)
            for alias in child.names:
                name = f"{base}.{alias.name}"
                yield Import(name, child.lineno, typing_only, lazy, relative=child.level > 0)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _visit(child, module, typing_only=True, lazy=lazy)
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _visit(child, module, typing_only=typing_only, lazy=inside)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    package = ["quire", *module.path.split("/")[:-1]]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])
