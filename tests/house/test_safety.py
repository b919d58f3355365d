"""Nothing unsafe on a wire or a disk, and no guard that ``python -O`` removes."""

import ast
import re
import subprocess

import pytest

from tests.house.source import ROOT, imports, modules

BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_NAMES = {"eval", "exec", "compile", "__import__"}
BANNED_ATTRIBUTES = {
    "torch": {"load", "save"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load", "UnsafeLoader", "Loader"},
    "os": {"system", "popen"},
}


def test_no_serializer_that_runs_code():
    breaches = [
        f"{module.path}:{found.line} imports {found.name}"
        for module in modules()
        for found in imports(module)
        if found.name.split(".")[0] in BANNED_MODULES
    ]
    assert not breaches, "\n".join(breaches)


def test_no_call_that_runs_text_or_unpickles():
    breaches = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in BANNED_NAMES:
                    breaches.append(f"{module.path}:{node.lineno} calls {node.func.id}")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr in BANNED_ATTRIBUTES.get(node.value.id, ()):
                    breaches.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}")
            elif isinstance(node, ast.keyword) and node.arg == "shell":
                breaches.append(f"{module.path}:{node.lineno}: a shell")
    assert not breaches, "\n".join(breaches)


def test_no_assert_guards_anything():
    breaches = [
        f"{module.path}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
    ]
    assert not breaches, "\n".join(breaches)


def test_no_unfinished_work_is_left_in_the_source():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    breaches = []
    for module in modules():
        for number, line in enumerate((ROOT / module.path).read_text().splitlines(), 1):
            if words.search(line):
                breaches.append(f"{module.path}:{number}: {line.strip()}")
    assert not breaches, "\n".join(breaches)


def test_the_project_speaks_of_itself_alone():
    """No path of a machine that it was written on, and no number of a tracker."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "*.py", "*.md", "*.toml", "Makefile"],
        capture_output=True,
        text=True,
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    places, trackers = r"/work/(main|shared|venv)|/root/", r"\b(issue #?|session )\d+\b"
    words = re.compile(f"{places}|{trackers}", re.IGNORECASE)
    breaches = []
    for path in listed.stdout.splitlines():
        if path.startswith(("tests/house/", "plugins/demo/")) or not (ROOT / path).exists():
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if words.search(line):
                breaches.append(f"{path}:{number}: {line.strip()}")
    assert not breaches, "\n".join(breaches)
