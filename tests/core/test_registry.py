"""The registry's failure modes, each with a real distribution's metadata on the path."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from quire.core.errors import ConfigError, PluginError
from quire.core.registry import DEFAULT_PLUGINS, Registry

MANIFEST = """
from quire.core.hooks import Manifest, Provision, hookimpl

@hookimpl
def quire_manifest():
    return Manifest(name={name!r}, version="1", contracts={contracts!r}, provides=({provides}))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch):
    """``install(name, source)`` puts a distribution with one plugin module on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name: str, source: str, distribution: str = "", target: str = "") -> None:
        module = f"plugin_of_{tmp_path.name.replace('-', '_')}_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{(distribution or name).replace('-', '_')}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 1.0\n"
        )
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[quire.plugins]\n{name} = {target or module}\n")
        sys.modules.pop(module, None)

    return add


def manifest(name="fine", kind="policy", part="p", target="x:y") -> str:
    return MANIFEST.format(
        name=name,
        contracts={kind: 1},
        provides=f"Provision({kind!r}, {part!r}, {target!r}),",
    )


def refusal(*load: str) -> str:
    with pytest.raises(PluginError) as caught:
        Registry(load)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_built_ins_come_by_the_same_door():
    registry = Registry()
    assert [info.name for info in registry.plugins() if info.active] == list(DEFAULT_PLUGINS)
    for info in registry.plugins():
        for part in info.provides:
            assert registry.owner(part.kind, part.name) == info.name
            assert part.name in registry.names(part.kind)


def test_installing_activates_nothing_and_naming_does(install):
    install("idle", manifest("idle", target="quire.core.errors:QuireError"))
    idle = [info for info in Registry().plugins() if info.name == "idle"]
    assert [(info.active, info.origin) for info in idle] == [(False, "idle 1.0")]
    assert "p" not in Registry().names("policy")
    with pytest.raises(ConfigError, match="installed but not loaded: idle"):
        Registry().get("policy", "p")
    from quire.core.errors import QuireError

    assert Registry(["idle", "idle"]).get("policy", "p") is QuireError


def test_a_missing_name_says_the_nearest(install):
    install("nearby", manifest("nearby"))
    message = refusal("nearbi")
    assert "'nearbi'" in message
    assert "did you mean 'nearby'" in message
    assert "plugins.load" in refusal("quite-another")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_an_import_failure_says_who_and_why(install, source, why):
    install("broken", source)
    message = refusal("broken")
    for word in ("'broken'", "broken 1.0", why, "update it"):
        assert word in message


@pytest.mark.parametrize(
    "source",
    [
        "",
        "from quire.core.hooks import hookimpl\n\n@hookimpl\ndef quire_manifest():\n    return 3\n",
        MANIFEST.format(name="m", contracts={"policy": 1}, provides="'fcfs',"),
        MANIFEST.format(name="m", contracts={"policy": 1}, provides="Provision(1, 2, 3),"),
        MANIFEST.format(name="m", contracts={"policy": "1"}, provides=""),
        MANIFEST.format(name="m", contracts=None, provides=""),
        MANIFEST.format(name=3, contracts={}, provides=""),
        MANIFEST.format(name="m", contracts={}, provides="").replace("()", "None"),
        MANIFEST.format(name="m", contracts={}, provides="").replace(
            "return", "import sys; sys.exit()"
        ),
    ],
)
def test_no_usable_manifest(install, source):
    install("empty", source)
    message = refusal("empty")
    assert "'empty'" in message
    assert "manifest" in message


def test_a_hook_that_does_not_exist_is_refused(install):
    extra = "\n@hookimpl\ndef quire_no_such_hook():\n    return None\n"
    install("odd", manifest("odd") + extra)
    assert "quire_no_such_hook" in refusal("odd")


def test_what_another_provides_is_refused_with_both_names(install):
    install("again", manifest("again", part="fcfs"))
    message = refusal("again")
    for word in ("'again'", "policy 'fcfs'", "quire.plugins.policies", "only one"):
        assert word in message


def test_two_distributions_that_claim_one_name(install):
    install("twice", manifest("twice"), distribution="one")
    install("twice", manifest("twice"), distribution="two")
    message = refusal("twice")
    assert "one 1.0 and two 1.0" in message
    assert "uninstall" in message


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_contract_version_is_refused(install, version):
    spoken = {} if version is None else {"policy": version}
    provides = "Provision('policy', 'p', 'x:y'),"
    install("old", MANIFEST.format(name="old", contracts=spoken, provides=provides))
    message = refusal("old")
    for word in ("'old'", f"version {version}", "policy", "speaks 1", "matching version"):
        assert word in message


def test_an_unknown_kind_lists_the_kinds(install):
    install("strange", manifest("strange", kind="teapot"))
    message = refusal("strange")
    assert "teapot" in message
    assert "policy" in message


def test_a_part_that_is_no_class_says_whose_it_is(install):
    install("plain", manifest("plain", target="quire:__version__"))
    with pytest.raises(PluginError, match=r"'plain'.*no class but of type str"):
        Registry(["plain"]).get("policy", "p")


def test_a_part_that_fails_to_import_says_whose_it_is(install):
    install("late", manifest("late", target="no_such_module_anywhere:thing"))
    registry = Registry(["late"])
    with pytest.raises(PluginError, match=r"'late'.*no_such_module_anywhere"):
        registry.get("policy", "p")


def test_a_part_that_fails_when_it_is_made_says_whose_it_is(install):
    source = manifest(target="p_module:Broken")
    install("mine", source)
    sys.modules["p_module"] = types.ModuleType("p_module")
    registry = Registry(["mine"])
    for raised in (OSError("no such\nsocket"), ConfigError("set x")):

        def broken(raised: Exception = raised, **_: object) -> None:
            raise raised

        sys.modules["p_module"].Broken = broken  # type: ignore[attr-defined]
        with pytest.raises((PluginError, ConfigError)) as caught:
            registry.make("policy", "p", x=1)
        message = str(caught.value)
        if isinstance(raised, ConfigError):
            assert message == "set x"
        else:
            assert "'mine'" in message
            assert "OSError: no such" in message
            assert "\n" not in message


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'fcfs'"):
        Registry().get("policy", "fcsf")
