"""The jinja2 environment of chat templates: nothing outside is reached, nothing grows without end.

A template comes with a model, so it is a stranger's program, and it works on text that callers
choose. Beyond jinja2's immutable sandbox, one rendering has a budget of steps (rounds of loops,
calls, filters), of seconds, and of the size of any value it builds.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ("MAX_CHARACTERS", "budget", "compile_template", "refuse")

MAX_CHARACTERS = 16 * 2**20
_MAX_STEPS = 1_000_000
_MAX_SECONDS = 10.0
# Numbers given to methods and filters: widths, counts.
_MAX_ARGUMENT = 100_000
_MAX_INTEGER = 2**64
# Upper bound of the length of text that is put together from a pattern and what goes into it.
_MAX_PRODUCT = 2**28
_MULTIPLYING = frozenset({"replace", "join", "format", "format_map", "translate"})


class _Budget:
    def __init__(self) -> None:
        self.steps = _MAX_STEPS
        self.deadline = time.monotonic() + _MAX_SECONDS


_current: ContextVar[_Budget] = ContextVar("chat_template_budget")


@contextmanager
def budget() -> Iterator[None]:
    """Give what runs inside a fresh budget; every rendering needs one."""
    token = _current.set(_Budget())
    try:
        yield
    finally:
        _current.reset(token)


def refuse(message: str) -> NoReturn:
    """Stop the rendering."""
    raise jinja2.TemplateError(message)


def compile_template(text: str) -> jinja2.Template:
    """A template to be rendered within a ``budget``.

    Raises:
        jinja2.TemplateSyntaxError: when the text is no template.
    """
    return _environment.from_string(text)


def _spend() -> None:
    left = _current.get()
    left.steps -= 1
    if left.steps < 0:
        refuse(f"it takes more than {_MAX_STEPS} steps")
    if time.monotonic() > left.deadline:
        refuse(f"it takes more than {_MAX_SECONDS:g} seconds")


def _counted(items: Any) -> Iterator[Any]:
    """The rounds of a loop."""
    for item in items:
        _spend()
        yield item


def _bounded(value: Any) -> Any:
    """A value, if it is not too large."""
    if _size(value) > MAX_CHARACTERS or (isinstance(value, int) and abs(value) > _MAX_INTEGER):
        refuse("it builds a value that is too large")
    return value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_arguments(name: str, values: Iterable[Any]) -> None:
    """Refuse arguments that would make a small call build something huge."""
    sizes = [1, 1]
    for value in values:
        if isinstance(value, int) and value > _MAX_ARGUMENT:
            refuse(f"it passes a number above {_MAX_ARGUMENT}")
        sizes.append(_size(value))
    if name in _MULTIPLYING:
        *_, second, first = sorted(sizes)
        if first * second > _MAX_PRODUCT:
            refuse("it builds a value that is too large")


def _check_pattern(pattern: Any) -> None:
    """Refuse a width in a %-pattern; no message needs one."""
    if isinstance(pattern, str):
        for part in pattern.split("%")[1:]:
            width = part.lstrip("#0- +")
            if width[:1] == "*" or width.partition(".")[2][:1] == "*" or width[:4].isdigit():
                refuse("it formats to a width that is too large")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that spends a step, and neither takes nor gives what is too large."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _spend()
        _check_arguments(name, (*args, *kwargs.values()))
        if name == "format":
            _check_pattern(args[0])
        return _bounded(function(*args, **kwargs))

    return run


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(cast(nodes.Expr, loop.iter), "counted")
        return _BoundJoins().visit(tree)  # type: ignore[no-any-return]

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend()
        # jinja2 wraps str.format in a function of its own.
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            name = method.__name__
            _check_arguments(name, (owner, *args, *kwargs.values()))
            if name.startswith("format"):
                _check_widths(owner)
        return _bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            refuse("it raises to a power")
        if operator == "*":
            times = [x for x in (left, right) if isinstance(x, int)]
            if times and _size(left) + _size(right) > MAX_CHARACTERS // max(1, *times):
                refuse("it builds a value that is too large")
        if operator == "%" and isinstance(left, str):
            _check_pattern(left)
            parts = right if isinstance(right, tuple) else (right,)
            _check_arguments("format", (left, *(part for part in parts if isinstance(part, str))))
        return _bounded(super().call_binop(context, operator, left, right))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a macro or a block has written."""
        pieces: list[str] = []
        size = 0
        for piece in parts:
            size += len(piece)
            if size > MAX_CHARACTERS:
                refuse(f"its text is longer than {MAX_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)


class _BoundJoins(jinja2.visitor.NodeTransformer):
    """Checks what the operator ~ builds."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        return _filtered(node, "bounded")


class _Generation(Extension):
    """``{% generation %}``: marks the assistant's part for training; here just its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_widths(pattern: str) -> None:
    """Refuse a width in a {}-pattern, as in a %-pattern; it may hide in a nested field."""
    for part in pattern.split(":")[1:]:
        field = part.partition("}")[0]
        if "{" in field or any(number.isdigit() for number in _runs(field, 4)):
            refuse("it formats to a width that is too large")


def _runs(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(len(text) - size + 1))


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where jinja2's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _make_environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    for name, function in environment.filters.items():
        environment.filters[name] = _guarded(name, function)
    environment.filters["counted"] = _counted
    environment.filters["bounded"] = _bounded
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _now
    return environment


_environment = _make_environment()
