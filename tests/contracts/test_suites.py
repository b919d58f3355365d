"""The suites as ``quire plugins check`` finds them."""

import subprocess
import sys

from quire.core.conformance import SUITES
from quire.core.contracts import VERSIONS


def test_suites_are_kept_by_kind_and_load_without_torch() -> None:
    assert SUITES.keys() <= VERSIONS.keys()
    code = "import sys, quire.core.conformance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
