"""The real server with the embedded model, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import openai
import psutil

SCRIPT = """
import json, sys
import msgspec
from quire.core.config import Config
from quire.server.run import run

config = msgspec.convert(json.loads(sys.argv[1]), Config)
raise SystemExit(run(config, on_ready=lambda url, engine: print(url, flush=True)))
"""


class ServerProcess:
    """Runs until a signal; ready when made.

    Args:
        sections: of the configuration.

    Attributes:
        url: where it listens.
        process: to send signals to.
    """

    def __init__(self, **sections: dict[str, Any]) -> None:
        sections["server"] = {"port": 0} | sections.get("server", {})
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(sections)],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the server ended with status {self.process.wait()}")

    def client(self, **keywords: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", **{"max_retries": 0} | keywords
        )

    def engine(self) -> psutil.Process:
        """The engine's process."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        (engine,) = [p for p in children if "quire.core.process" in p.cmdline()]
        return engine

    def ended(self, seconds: float = 60) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """End it as a supervisor does."""
        self.process.send_signal(signal.SIGTERM)
        killer = threading.Timer(60, self.process.kill)
        killer.start()
        try:
            return self.process.wait()
        finally:
            killer.cancel()
            self.process.stdout.close()
