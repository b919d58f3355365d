"""Exporters: the built-in one conforms, and broken ones are caught."""

import pytest

from quire.core.contracts.exporter import Exporter
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_exporter


@pytest.mark.parametrize("name", Registry().names("exporter"))
def test_every_registered_exporter_conforms(name: str) -> None:
    check_exporter(Registry().get("exporter", name))


class Plain(Exporter):
    def __init__(self, config):
        self.lines = []

    def engine(self, stats):
        self.lines.append(f"step {stats.step}")

    def request(self, record):
        self.lines.append(record.finish_reason)

    def healthy(self, alive):
        self.lines.append(f"alive {alive}")

    def render(self):
        return "\n".join(self.lines).encode(), "text/plain"


class Shared(Plain):
    everybody: list[str] = []

    def __init__(self, config):
        self.lines = self.everybody


class Deaf(Plain):
    def healthy(self, alive):
        pass


class Text(Plain):
    def render(self):
        return "text", "text/plain"


def test_a_stranger_conforms() -> None:
    check_exporter(Plain)


@pytest.mark.parametrize(
    ("broken", "words"),
    [(Shared, "share"), (Deaf, "died"), (Text, "bytes belong")],
)
def test_a_broken_exporter_is_caught(broken: type[Exporter], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_exporter(broken)
