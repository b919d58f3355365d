"""Configuration files: YAML to ``Config``, with errors that name the key, the line and the cure.

Values come from three places; a later one wins: the file, named settings (the command line's
flags), and overrides of the form ``cache.block_size=32``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml
from msgspec import inspect as types

from .config import Config
from .errors import ConfigError

__all__ = ("MAX_BYTES", "describe_kind", "keys", "load", "schema")

MAX_BYTES = 2**18
MAX_DEPTH = 8


class _Leaf(msgspec.Struct, frozen=True):
    """A value, and where it was written."""

    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases (a small file could expand to a huge value) or depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load(
    path: Path | None = None,
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Read a configuration; what is not said keeps its default.

    Args:
        path: a YAML file; None for the defaults.
        overrides: ``key=value`` with a dotted key and a value in YAML; the last word.
        settings: dotted key -> value, from flags; over the file, under overrides.

    Returns:
        The configuration, not yet resolved.

    Raises:
        ConfigError: one line a problem: the dotted key, file and line, what was expected there,
            and the nearest known key for an unknown one.
    """
    leaves: dict[str, _Leaf] = {}
    problems: list[str] = []
    if path is not None:
        for key, leaf in _read(path, problems):
            leaves[key] = leaf
    for key, value in (settings or {}).items():
        leaves[key] = _Leaf(value, "on the command line")
    for text in overrides:
        key, leaf = _override(text)
        leaves[key] = leaf
    known = dict(keys())
    values: dict[str, Any] = {}
    for key, leaf in leaves.items():
        if key not in known:
            problems.append(f"{_unknown(key, known)} ({leaf.where})")
            continue
        try:
            converted = msgspec.convert(leaf.value, known[key])
        except msgspec.ValidationError:
            expected, got = describe_kind(known[key]), _describe_value(leaf.value)
            if isinstance(leaf.value, list) and expected.startswith("a list"):
                got = "one with other items"
            problems.append(f"{key} must be {expected}, not {got} ({leaf.where})")
            continue
        _put(values, key, converted)
    if problems:
        raise ConfigError("\n".join(problems))
    return msgspec.convert(values, Config)


def keys(struct: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its annotation, in the order of ``Config``."""
    hints = get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        if _is_struct(hints[name]):
            yield from keys(hints[name], f"{prefix}{name}.")
        else:
            yield prefix + name, hints[name]


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, with the attributes' docs as descriptions."""
    whole = msgspec.json.schema(Config)
    for struct in _structs(Config):
        entry = whole["$defs"][struct.__name__]
        summary, docs = _documentation(struct)
        entry["description"] = summary
        for name, text in docs.items():
            entry["properties"][name]["description"] = text
    return whole


def describe_kind(annotation: Any) -> str:
    """A type in words, such as ``an integer of at least 1 or null``."""
    return _words(types.type_info(annotation))


def _read(path: Path, problems: list[str]) -> Iterator[tuple[str, _Leaf]]:
    """The leaves of a file; duplicate keys are reported as problems."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{path} has {len(data)} bytes; a configuration file has at most {MAX_BYTES}"
        )
    root, loader = _compose(data, str(path))
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} must hold keys and values, such as `model: {{name: demo}}`")
    yield from _walk(root, loader, str(path), "", problems)


def _compose(data: bytes | str, label: str) -> tuple[yaml.Node | None, _Loader]:
    try:
        loader = _Loader(data)
        return loader.get_single_node(), loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{label}:{mark.line + 1}" if mark else label
        raise ConfigError(f"{where} is not YAML that can be read here: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{label} is not YAML: {str(error).splitlines()[0]}") from error


def _walk(
    node: yaml.MappingNode, loader: _Loader, label: str, prefix: str, problems: list[str]
) -> Iterator[tuple[str, _Leaf]]:
    sections = {key.rsplit(".", 1)[0] for key, _ in keys()}
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = f"{label}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"a key must be a plain word ({where})")
        key = prefix + str(key_node.value)
        if key in seen:
            problems.append(f"{key} is given twice, on line {seen[key]} and again ({where})")
            continue
        seen[key] = line
        if key in sections and _is_empty(value_node):
            continue
        if isinstance(value_node, yaml.MappingNode):
            yield from _walk(value_node, loader, label, key + ".", problems)
        elif key in sections:
            value = _describe_value(_construct(loader, value_node, where))
            problems.append(f"{key} must be a section of keys and values, not {value} ({where})")
        else:
            yield key, _Leaf(_construct(loader, value_node, where), where)


def _override(text: str) -> tuple[str, _Leaf]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {text} has no value; write --set key=value")
    where = f"--set {text}"
    node, loader = _compose(value, where)
    return key, _Leaf(None if node is None else _construct(loader, node, where), where)


def _construct(loader: _Loader, node: yaml.Node, where: str) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        brief = str(error).splitlines()[0]
        raise ConfigError(f"a value cannot be read: {brief} ({where})") from error


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _structs(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield struct
    for hint in get_type_hints(struct).values():
        if _is_struct(hint):
            yield from _structs(hint)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def _unknown(key: str, known: Iterable[str]) -> str:
    """What is wrong with a key that is none."""
    within = [full for full in known if full.startswith(key + ".")]
    if within:
        return f"{key} is a section; set its keys, such as {within[0]}"
    return f"unknown key {key}{_nearest(key, known)}"


def _nearest(key: str, known: Iterable[str]) -> str:
    """A hint at the key that was meant: spelled alike, or the same name in another section."""
    known = list(known)
    by_name = {full.rsplit(".", 1)[-1]: full for full in known}
    section, _, name = key.rpartition(".")
    siblings = {full.rsplit(".", 1)[-1]: full for full in known if full.startswith(section + ".")}
    for names in (siblings, by_name):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
        if near:
            return f"; did you mean {names[near[0]]}?"
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _words(kind: types.Type) -> str:
    match kind:
        case types.UnionType(types=options):
            options = tuple(sorted(options, key=lambda o: isinstance(o, types.NoneType)))
            return " or ".join(_words(option) for option in options)
        case types.NoneType():
            return "null"
        case types.BoolType():
            return "true or false"
        case types.IntType() | types.FloatType():
            noun = "an integer" if isinstance(kind, types.IntType) else "a number"
            return noun + _bounds(kind)
        case types.Metadata(type=inner, extra_json_schema={"description": str(words)}):
            return f"{_words(inner)} of {words}"
        case types.StrType():
            return "text"
        case types.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case types.VarTupleType(item_type=item):
            return f"a list, each item {_words(item)}"
        case _:
            raise TypeError(f"no words for {kind}; add them where this is raised")


def _bounds(kind: types.IntType | types.FloatType) -> str:
    parts = [
        f"{words} {value}"
        for words, value in (
            ("greater than", kind.gt),
            ("of at least", kind.ge),
            ("less than", kind.lt),
            ("at most", kind.le),
        )
        if value is not None
    ]
    return " " + " and ".join(parts) if parts else ""


def _describe_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return {"list": "a list", "dict": "keys and values"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )


def _documentation(struct: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """A struct's summary, and its attributes' docs, from a docstring in Google style."""
    summary, _, block = (inspect.getdoc(struct) or "").partition("\n\nAttributes:\n")
    docs: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and line.startswith("    ") and not line.startswith("     "):
            name, docs[head] = head, rest
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return " ".join(summary.split()), docs
