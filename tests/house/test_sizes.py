"""Sizes: aims are 300 lines a file, 60 a function, 8 arguments; the test fails well above them."""

import ast

from tests.house.source import modules

FILE, KERNEL_FILE, DATA_FILE = 400, 500, 900
FUNCTION = 90
ARGUMENTS = 10
WORST = 5
# Tables of words and snippets: data that happens to be Python.
DATA = (
    "plugins/demo/words.py", "plugins/demo/snippet_texts.py", "plugins/demo/tools_catalog.py",
    "plugins/demo/facts.py",
)  # fmt: skip


def _limit(path: str) -> int:
    if path in DATA:
        return DATA_FILE
    return KERNEL_FILE if "/kernels/" in path else FILE


def _show(title: str, sizes: list[tuple[int, str]]) -> None:
    print(title, *(f"  {size:4} {name}" for size, name in sorted(sizes)[::-1][:WORST]), sep="\n")


def test_files():
    sizes = [(module.lines, module.path) for module in modules()]
    _show("longest files", [size for size in sizes if size[1] not in DATA])
    assert not [size for size in sizes if size[0] > _limit(size[1])]


def test_functions():
    sizes = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{module.path}:{node.name}")
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    _show("longest functions", sizes)
    assert not [size for size in sizes if size[0] > FUNCTION]


def test_constructors():
    sizes = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                arguments = node.args
                count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
                sizes.append((count, f"{module.path}:{node.lineno}"))
    _show("constructors with most arguments", sizes)
    assert not [size for size in sizes if size[0] > ARGUMENTS]
