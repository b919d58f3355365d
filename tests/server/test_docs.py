"""The documents name every field, every metric and every code there is."""

import re
from pathlib import Path

import pytest

from quire.core.config import Config, SpeculationConfig
from quire.plugins.exporters.prometheus import Prometheus
from quire.server.openai.protocol import ChatRequest, CompletionRequest

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs" / "http-api.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize("request_type", [ChatRequest, CompletionRequest])
def test_every_field_is_documented(request_type):
    missing = [name for name in request_type.__struct_fields__ if f"`{name}`" not in API]
    assert not missing


def test_every_metric_is_documented_and_exists():
    speculating = Config(speculation=SpeculationConfig(method="ngram"))
    text = Prometheus(speculating).render()[0].decode()
    exported = set(re.findall(r"^# TYPE (vllm:\w+) ", text, re.MULTILINE))
    assert set(re.findall(r"`(vllm:\w+)`", METRICS)) == exported


def test_every_code_is_documented():
    source = "".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    codes = set(re.findall(r'"((?:[a-z]+_)+[a-z]+|draining)"', source))
    documented = set(re.findall(r"`([a-z_]+)`", API.split("## Errors")[1]))
    assert documented - codes - {"param"} == set()
