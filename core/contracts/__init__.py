"""Interfaces between the engine and its plugins: one file a contract, no torch at run time.

``VERSIONS`` names every kind of thing a plugin may provide and the contract version it must speak.
"""

from . import (
    adapter,
    attention,
    checkpoint,
    executor,
    exporter,
    grammar,
    model,
    parser,
    platform,
    policy,
    quant,
    route,
    scheduler,
    speculator,
)

__all__ = ("VERSIONS",)

VERSIONS: dict[str, int] = {
    "adapter": adapter.CONTRACT_VERSION,
    "attention": attention.CONTRACT_VERSION,
    "checkpoint": checkpoint.CONTRACT_VERSION,
    "executor": executor.CONTRACT_VERSION,
    "exporter": exporter.CONTRACT_VERSION,
    "grammar": grammar.CONTRACT_VERSION,
    "model": model.CONTRACT_VERSION,
    "parser": parser.CONTRACT_VERSION,
    "platform": platform.CONTRACT_VERSION,
    "policy": policy.CONTRACT_VERSION,
    "quant": quant.CONTRACT_VERSION,
    "route": route.CONTRACT_VERSION,
    "scheduler": scheduler.CONTRACT_VERSION,
    "speculator": speculator.CONTRACT_VERSION,
}
