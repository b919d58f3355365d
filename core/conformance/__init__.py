"""Conformance suites: what an implementation of each contract must do, as plain functions.

A suite is ``check_<contract>(factory)``; it returns when the promises hold and raises
``ConformanceError`` with a sentence about the first that does not, or ``Unchecked`` when it cannot
judge the implementation here. ``SUITES`` names those that need nothing but what a plugin provides;
``quire plugins check`` runs them. An adapter cannot be judged without adapters to load, nor a
quantization without stored layers: ``check_adapter`` and ``check_quant`` are for a plugin's own
tests, which import every suite from ``quire.testing``.
"""

__all__ = ("SUITES",)

# Contract -> where its suite is, so that nothing is imported that is not run. The suite of routes
# lives with what routes are made of.
SUITES: dict[str, str] = {
    "attention": "quire.core.conformance.attention:check_backend",
    "checkpoint": "quire.core.conformance.checkpoint:check_checkpoint",
    "executor": "quire.core.conformance.executor:check_executor",
    "exporter": "quire.core.conformance.exporter:check_exporter",
    "grammar": "quire.core.conformance.grammar:check_grammar",
    "model": "quire.core.conformance.model:check_model",
    "parser": "quire.core.conformance.parser:check_parser",
    "platform": "quire.core.conformance.platform:check_platform",
    "policy": "quire.core.conformance.policy:check_policy",
    "route": "quire.server.conformance:check_route",
    "scheduler": "quire.core.conformance.scheduler:check_scheduler",
    "speculator": "quire.core.conformance.speculator:check_speculator",
}
