"""Fresh environments: a venv that finds this one's libraries, with wheels of its own on top; and a
fresh machine, where there is a Python and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "quire-example-plugin"
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


def build(source: Path, work: Path) -> Path:
    """The wheel of a copy of a source tree, so that the tree stays clean."""
    copy = work / source.name
    shutil.copytree(source, copy, ignore=_LEFT_OUT)
    run("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(copy))
    (wheel,) = work.glob(f"{'quire_example' if source == EXAMPLE else 'quire-'}*.whl")
    return wheel


class Environment:
    """A fresh virtual environment.

    Args:
        folder: where to make it.
        wheels: installed there; other libraries come from the running environment.
    """

    def __init__(self, folder: Path, *wheels: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        (packages,) = folder.glob("lib/python*/site-packages")
        # After the wheels', so that an installed quire of the running environment is not seen.
        (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        run("pip", "--python", str(self.bin / "python"), "install", "--no-deps", "--no-index",
            *map(str, wheels))  # fmt: skip

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line of a program of the environment."""
        return [str(self.bin / program), *arguments]

    def run(self, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its programs from another folder than the source's."""
        return subprocess.run(
            self.command(program, *arguments),
            cwd=cwd,
            env=environ(),
            capture_output=True,
            text=True,
            timeout=300,
        )


class Machine:
    """A copy of this source tree in an empty folder, and a shell that knows a Python and no more.

    What pip is told by its variables (an index, a proxy) and its cache are the machine's own.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "quire"
        shutil.copytree(ROOT, self.root, ignore=_LEFT_OUT)
        programs = folder / "bin"
        programs.mkdir()
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        (programs / "python3").symlink_to(base)
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy") or name == "HOME"
        }
        self.env = {**kept, "PATH": f"{programs}:/usr/bin:/bin", "COLUMNS": "200"}

    def shell(
        self, line: str, *, cwd: Path | None = None, input: str = "", timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell, from the top of the tree unless said otherwise."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=cwd or self.root,
            env=self.env,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    @contextlib.contextmanager
    def serving(self, line: str) -> Iterator[str]:
        """What a server prints up to its curl line; it is ended as Ctrl-C in a terminal would.

        Args:
            line: of a shell; the server must be told to listen on a free port.
        """
        server = subprocess.Popen(
            ["bash", "-c", line],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        log = ""
        for text in server.stdout or ():
            log += text
            if text.startswith("curl "):
                break
        try:
            yield log
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(timeout=60)


def environ() -> dict[str, str]:
    """The process's variables, without paths to this source tree."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(module: str, *arguments: str) -> None:
    """Run a module of the running interpreter; its output is in the error when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environ())
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
