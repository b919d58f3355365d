"""Fresh environments: a venv that finds this one's libraries, with wheels of its own on top."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
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
