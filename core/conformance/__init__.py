"""Conformance suites: what an implementation of each contract must do, as plain functions.

A suite is ``check_<contract>(factory)``; it returns when the promises hold and raises
``ConformanceError`` with a sentence about the first that does not. ``SUITES`` has those that need
nothing but the class a plugin provides; ``quire plugins check`` runs them. An adapter cannot be
judged without adapters to load, so ``check_adapter`` is for a plugin's own tests.
"""

from collections.abc import Callable
from typing import Any

from .adapter import AdapterCase, check_adapter
from .exporter import check_exporter
from .grammar import check_grammar
from .parser import check_parser
from .policy import check_policy
from .report import ConformanceError
from .speculator import check_speculator

__all__ = (
    "SUITES",
    "AdapterCase",
    "ConformanceError",
    "check_adapter",
    "check_exporter",
    "check_grammar",
    "check_parser",
    "check_policy",
    "check_speculator",
)

SUITES: dict[str, Callable[[Any], None]] = {
    "exporter": check_exporter,
    "grammar": check_grammar,
    "parser": check_parser,
    "policy": check_policy,
    "speculator": check_speculator,
}
