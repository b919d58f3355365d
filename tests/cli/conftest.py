"""Running the command line as its users do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

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


class Served:
    """A server in a process of its own.

    Attributes:
        url: where it listens.
        log: what it printed up to then.
        process: for signals.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quire", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
        lines: list[str] = []
        for line in self.process.stderr or ():
            lines.append(line)
            if line.startswith("curl "):
                break
        self.log = "".join(lines)
        found = re.search(r"listening on (http://\S+)", self.log)
        if not found:
            raise RuntimeError(f"the server did not start:\n{self.log}")
        self.url = found[1]

    def stop(self) -> int:
        """End it as a supervisor would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """``quire serve`` with the embedded model on a free port."""
    server = Served()
    yield server
    if server.stop() != 0:
        raise RuntimeError("the server did not end well")
