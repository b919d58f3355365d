"""The suites as ``quire plugins check`` and third parties find them."""

import subprocess
import sys

import pytest

from quire import testing
from quire.core.contracts import VERSIONS
from quire.core.registry import import_target
from quire.testing import SUITES

# Their suites need cases that only an implementation's own tests have.
WITH_CASES = {"adapter": "check_adapter", "quant": "check_quant"}


def test_every_contract_has_a_suite() -> None:
    assert SUITES.keys() | WITH_CASES.keys() == VERSIONS.keys()
    assert not SUITES.keys() & WITH_CASES.keys()


@pytest.mark.parametrize("kind", sorted(SUITES))
def test_a_suite_is_there_and_exported(kind: str) -> None:
    suite = import_target(SUITES[kind])
    assert getattr(testing, suite.__name__) is suite
    assert suite.__name__ in testing.__all__


def test_naming_suites_imports_none_of_them() -> None:
    code = "import sys, quire.core.conformance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
