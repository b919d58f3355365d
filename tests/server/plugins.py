"""A registry that knows further route groups, as a plugin would supply them."""

import types

from quire.core.contracts import VERSIONS
from quire.core.hooks import Manifest, Provision, hookimpl
from quire.core.registry import Registry


def registry_with(**groups: type) -> Registry:
    """The built-in plugins and one that provides these route groups."""
    module = types.ModuleType("a_plugin")
    for name, group in groups.items():
        setattr(module, name, group)

    class Plugin:
        @hookimpl
        def quire_manifest(self) -> Manifest:
            return Manifest(
                name="a_plugin",
                version="1",
                contracts={"route": VERSIONS["route"]},
                provides=tuple(Provision("route", name, f"a_plugin:{name}") for name in groups),
            )

    import sys

    sys.modules["a_plugin"] = module
    registry = Registry()
    registry._register("a_plugin", Plugin(), "this test")
    return registry
