"""The surface for plugin authors: documented, and tested by name."""

import re
from typing import get_type_hints

import msgspec
import pytest

from quire.core.config import Config
from quire.core.config_file import describe_kind, keys, schema
from quire.core.contracts import VERSIONS
from quire.core.hooks import QuireHooks
from tests.house.source import ROOT

HOOKS = [name for name in vars(QuireHooks) if name.startswith("quire_")]
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_typed_documented_tested_and_used(hook):
    function = getattr(QuireHooks, hook)
    assert function.__doc__
    assert "return" in get_type_hints(function)
    assert f"`{hook}`" in PLUGINS
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert any(re.search(rf"\b{hook}\b", text) for text in tests), "no test names it"
    rooms = ("core", "backends", "quant", "plugins", "server")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    users = [p for p in sources if p.name != "hooks.py" and hook in p.read_text()]
    assert users, "nothing shipped uses it"


@pytest.mark.parametrize("kind", sorted(VERSIONS))
def test_a_contract_is_documented_with_its_version(kind):
    assert re.search(rf"^\| `{kind}` \| {VERSIONS[kind]} \|", PLUGINS, re.MULTILINE)
    assert (ROOT / "core" / "contracts" / f"{kind}.py").exists()


def test_every_key_of_the_configuration_is_documented_as_it_is():
    lines = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    structs = schema()["$defs"]
    defaults = msgspec.to_builtins(Config())
    for key, annotation in keys():
        section, name = key.split(".")
        struct = structs["Config"]["properties"][section]["$ref"].rsplit("/", 1)[1]
        what = structs[struct]["properties"][name]["description"].replace("``", "`")
        default = msgspec.json.encode(defaults[section][name]).decode()
        row = f"| `{key}` | {describe_kind(annotation)} | `{default}` | {what} |"
        assert row in lines, f"docs/configuration.md should have the line\n{row}"
