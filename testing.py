"""``quire.testing``: the conformance suites, for the tests of plugins.

>>> from quire.testing import check_policy
>>> check_policy(MyPolicy)
"""

from .core.conformance import SUITES
from .core.conformance.adapter import AdapterCase, check_adapter
from .core.conformance.attention import Scenario, check_attention, check_backend, check_cache
from .core.conformance.checkpoint import check_checkpoint
from .core.conformance.executor import check_executor
from .core.conformance.exporter import check_exporter
from .core.conformance.grammar import check_grammar
from .core.conformance.model import check_architecture, check_model
from .core.conformance.parser import check_parser
from .core.conformance.platform import check_platform
from .core.conformance.policy import check_policy
from .core.conformance.quant import QuantCase, check_quant
from .core.conformance.report import ConformanceError, Unchecked
from .core.conformance.rounding import check_rounding
from .core.conformance.scheduler import check_scheduler
from .core.conformance.speculator import check_speculator
from .server.conformance import check_route

__all__ = (
    "SUITES",
    "AdapterCase",
    "ConformanceError",
    "QuantCase",
    "Scenario",
    "Unchecked",
    "check_adapter",
    "check_architecture",
    "check_attention",
    "check_backend",
    "check_cache",
    "check_checkpoint",
    "check_executor",
    "check_exporter",
    "check_grammar",
    "check_model",
    "check_parser",
    "check_platform",
    "check_policy",
    "check_quant",
    "check_rounding",
    "check_route",
    "check_scheduler",
    "check_speculator",
)
