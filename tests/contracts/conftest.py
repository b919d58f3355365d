"""What several suites are given."""

import contextlib

import pytest
import torch

from quire.core.config import CacheConfig, Config, ModelConfig
from quire.core.conformance.speculator import make_context
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.run.build import build_runner, speculator_context


@pytest.fixture(scope="session")
def embedded_context():
    """What a speculator is checked with that drafts for the embedded model."""
    model = ModelConfig(name="demo", dtype="float32", max_model_len=64)
    config = Config(model=model, cache=CacheConfig(block_size=4, num_blocks=20))
    registry = Registry()
    found = resolve(config, registry)
    runner, platform, _ = build_runner(
        found.config, registry, lambda name: contextlib.nullcontext()
    )
    made = speculator_context(
        found.config, registry, found.source, platform, torch.device("cpu"), runner.model
    )
    return make_context(
        vocab_size=made.vocab_size,
        model=made.model,
        open_model=made.open_model,
        open_module=made.open_module,
    )
