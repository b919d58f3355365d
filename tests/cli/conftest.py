"""Running the command line as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def quire() -> Run:
    """``quire(*arguments)`` in a process of its own."""

    def run(*arguments: str, input: str | None = None, env: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, "-m", "quire", *arguments],
            capture_output=True,
            text=True,
            input=input,
            timeout=120,
            env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(env or {})},
        )

    return run
