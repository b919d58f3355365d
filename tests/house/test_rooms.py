"""Who may import whom, and where each third-party library lives."""

import ast

import pytest

from tests.house.source import ROOMS, imports, modules

# Room -> rooms it may import. Plugins may reach the server only lazily, in the file that registers.
MAY = {
    "core": set(),
    "backends": {"core"},
    "quant": {"core"},
    "plugins": {"core", "backends", "quant"},
    "server": {"core"},
    "cli": {"core"},
}

# Library -> where it may be imported at run time.
HOMES = {
    "litestar": ("server/",),
    "uvicorn": ("server/",),
    "uvloop": ("server/", "core/process.py"),
    "httptools": ("server/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "matplotlib": ("cli/bench/", "plugins/demo/plot.py"),
    "triton": ("backends/", "quant/"),
    "numba": ("backends/cpu/",),
    "llvmlite": ("backends/cpu/",),
    "pluggy": ("core/hooks.py", "core/registry.py"),
    # evaluate.py and prepare.py belong to the making of the embedded model, not to serving.
    "transformers": ("core/text/", "plugins/models/", "plugins/demo/evaluate.py"),
    "tokenizers": ("core/text/", "plugins/demo/"),
    "jinja2": ("core/text/", "plugins/demo/prepare.py"),
    "huggingface_hub": ("core/source.py", "core/text/", "core/weights/"),
    "safetensors": ("core/weights/", "plugins/demo/"),
    "yaml": ("core/config_file.py",),
    "zmq": ("core/",),
    "prometheus_client": ("plugins/exporters/",),
    "tqdm": ("core/progress.py",),
    "msgspec": ("",),
    "torch": ("core/", "backends/", "quant/", "plugins/"),
    "numpy": ("core/", "backends/", "quant/", "plugins/"),
}

# What decides imports no torch, so that it is tested in milliseconds.
DECIDES = (
    "core/request.py", "core/sequence.py", "core/step.py", "core/output.py", "core/wire.py",
    "core/config.py", "core/config_file.py", "core/resolve.py", "core/registry.py",
    "core/hooks.py", "core/errors.py", "core/metrics.py", "core/engine.py", "core/builtin.py",
    "core/collect.py", "core/frontend.py", "core/source.py", "core/contracts/", "core/schedule/",
    "core/cache/",
)  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room):
    breaches = []
    for module in modules():
        if module.room != room:
            continue
        for found in imports(module):
            parts = found.name.split(".")
            if parts[0] != "quire" or len(parts) < 2 or parts[1] not in ROOMS:
                continue
            if parts[1] != room and parts[1] not in MAY[room]:
                breaches.append(f"{module.path}:{found.line} imports {found.name}")
    assert not breaches, "\n".join(breaches)


def test_inside_the_package_imports_are_relative():
    breaches = [
        f"{module.path}:{found.line} imports {found.name}"
        for module in modules()
        if module.path not in ("__init__.py", "__main__.py")
        for found in imports(module)
        if found.name.split(".")[0] in ("quire", *ROOMS) and not found.relative
    ]
    assert not breaches, "\n".join(breaches)


def test_each_library_has_its_home():
    import sys

    breaches = []
    for module in modules():
        for found in imports(module):
            library = found.name.split(".")[0]
            if library in sys.stdlib_module_names or library == "quire" or found.typing_only:
                continue
            homes = HOMES.get(library)
            if homes is None:
                breaches.append(f"{module.path}:{found.line}: {library} has no home")
            elif not module.path.startswith(homes):
                breaches.append(f"{module.path}:{found.line}: {library} lives in {homes}")
    assert not breaches, "\n".join(breaches)


def test_what_decides_imports_no_torch():
    breaches = [
        f"{module.path}:{found.line} imports {found.name}"
        for module in modules()
        if module.path.startswith(DECIDES)
        for found in imports(module)
        if not found.typing_only and found.name.split(".")[0] in ("torch", "numpy", "triton")
    ]
    assert not breaches, "\n".join(breaches)


def test_the_facade_imports_nothing_when_imported():
    (facade,) = (module for module in modules() if module.path == "__init__.py")
    eager = [f.name for f in imports(facade) if not (f.typing_only or f.lazy)]
    assert eager == ["typing.TYPE_CHECKING", "typing.Any"]


def test_every_module_says_what_is_public():
    silent = []
    for module in modules():
        names = [
            node.value
            for node in module.tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id == "__all__"
        ]
        has_code = any(
            isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign)
            for node in module.tree.body
        )
        if has_code and not (len(names) == 1 and isinstance(names[0], ast.Tuple)):
            silent.append(module.path)
    assert not silent, f"no __all__ tuple: {silent}"
