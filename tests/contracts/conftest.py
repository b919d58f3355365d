"""What several suites are given."""

import pytest

from quire.core.config import CacheConfig, Config, ModelConfig
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.run.build import model_opener


@pytest.fixture
def embedded_draft():
    """Opens the embedded draft model, whatever is asked for."""
    config = Config(
        model=ModelConfig(name="demo", dtype="float32"), cache=CacheConfig(block_size=4)
    )
    registry = Registry()
    platform = registry.get("platform", "cpu")()
    opened = model_opener(resolve(config, registry).config, registry, platform, platform.setup())
    return lambda model: opened(ModelConfig(name="demo-draft"))
