"""Platforms: every registered one conforms, and broken ones are caught."""

import pytest
import torch

from quire.core.contracts.platform import Memory, Platform
from quire.core.registry import Registry
from quire.plugins.platforms.cpu import CPU
from quire.testing import ConformanceError, Unchecked, check_platform


@pytest.mark.parametrize("name", Registry().names("platform"))
def test_every_registered_platform_conforms(name: str) -> None:
    try:
        check_platform(Registry().get("platform", name))
    except Unchecked as reason:
        pytest.skip(str(reason))


class Boasting(CPU):
    def memory(self):
        found = super().memory()
        return Memory(found.total, found.total + 1)


class Astray(CPU):
    def setup(self, *, deterministic=False):
        return torch.device("meta")


class WithoutBias(CPU):
    def product(self, weight, bias):
        return super().product(weight, None)


class Wide(CPU):
    def product(self, weight, bias):
        return lambda x: torch.nn.functional.linear(
            x.double(), weight.double(), None if bias is None else bias.double()
        )


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Boasting, "makes no sense"),
        (Astray, "setup gives meta"),
        (WithoutBias, "off by"),
        (Wide, "torch.float64"),
    ],
)
def test_a_broken_platform_is_caught(broken: type[Platform], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_platform(broken)
