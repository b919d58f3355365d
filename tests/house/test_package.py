"""What is packaged is what is on the disk."""

import tomllib

from tests.house.source import ROOMS, ROOT, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_listed_packages_are_those_on_the_disk():
    on_disk = {"quire"}
    for room in ROOMS:
        for marker in (ROOT / room).rglob("__init__.py"):
            on_disk.add("quire." + ".".join(marker.parent.relative_to(ROOT).parts))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk


def test_every_folder_with_code_is_a_package():
    folders = {ROOT / module.path for module in modules()}
    bare = {str(p.parent) for p in folders if not (p.parent / "__init__.py").exists()}
    assert not bare


def test_nothing_else_at_the_root_would_ship():
    assert {path.name for path in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "testing.py"}


def test_dependencies_are_pinned_and_the_version_is_one():
    from quire import __version__

    assert PROJECT["project"]["version"] == __version__
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needed = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        needed += extra
    for requirement in needed:
        if "==" in requirement:
            continue
        name = requirement.split(";")[0].split(">")[0].split("[")[0].strip().lower()
        assert name == "quire" or name in pinned, requirement
