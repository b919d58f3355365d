"""The surface for plugin authors: documented, and tested by name."""

import re
from typing import get_type_hints

import pytest

from quire.core.config_file import keys
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


def test_every_key_of_the_configuration_is_documented():
    text = (ROOT / "docs" / "configuration.md").read_text()
    missing = [key for key, _ in keys() if f"`{key}`" not in text]
    assert not missing
