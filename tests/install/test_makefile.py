"""Which Python, which torch, and what is left behind when something fails: make with a Python that
writes down what it is asked to install and installs nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.install.environment import ROOT, Machine

pytestmark = pytest.mark.install

# Fails where the arguments hold $FAIL; a $VENV of "broken" makes an environment without pip once.
PYTHON = """#!/bin/sh
case "$*" in
  "-c import sys"*) exit 0 ;;
  "-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    test -e "$LOG.venv" || test "$VENV" != broken || touch "$3/no-pip"
    echo "$*" >> "$LOG.venv" ;;
  *"pip --version"*) test ! -e "$(dirname "$0")/../no-pip" ;;
  *)
    echo "$*" >> "$LOG"
    case "$*" in *"$FAIL"*) echo "no matching distribution"; exit 1 ;; esac ;;
esac
"""
CPU_INDEX = re.search(r"^CPU_WHEELS := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


class Fresh(Machine):
    """A machine whose Python only writes down what it should do.

    Args:
        folder: empty.
        fail: an installation with this among its arguments fails.
        programs: further ones, by name, as shell scripts.
    """

    def __init__(self, folder: Path, fail: str = "?", venv: str = "", **programs: str) -> None:
        super().__init__(folder)
        self.log = folder / "log"
        self.env |= {"LOG": str(self.log), "FAIL": fail, "VENV": venv}
        self.folder = folder
        (folder / "bin" / "python3").unlink()
        self.add(python3=PYTHON, **programs)

    def add(self, **programs: str) -> None:
        for name, text in programs.items():
            path = self.folder / "bin" / name.replace("_", "-")
            path.write_text(text)
            path.chmod(0o755)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def installs(self) -> list[str]:
        return [line for line in self.asked() if "pip" in line]


def torches(machine: Fresh) -> list[bool]:
    """Of each attempt to install torch alone: whether from the index of CPU builds."""
    return [
        CPU_INDEX in line for line in machine.installs() if line.split()[-1].startswith("torch==")
    ]


@pytest.mark.parametrize(
    ("programs", "fail", "attempts"),
    [
        ({"nvidia_smi": "#!/bin/sh\nexit 127\n"}, "?", [True]),
        ({"nvidia_smi": "#!/bin/sh\nexit 9\n"}, CPU_INDEX, [True, False]),
        ({"nvidia_smi": "#!/bin/sh\necho GPU 0: NVIDIA H200\n"}, "?", [False]),
        (
            {"nvidia_smi": "#!/bin/sh\nexit 127\n", "uname": "#!/bin/sh\necho Darwin\n"},
            "?",
            [False],
        ),
    ],
    ids=["no GPU", "no GPU and no CPU builds", "GPU", "another system"],
)
def test_which_torch(programs, fail, attempts, tmp_path):
    machine = Fresh(tmp_path, fail, **programs)
    done = machine.shell("make venv")
    assert done.returncode == 0, done.stderr
    assert torches(machine) == attempts
    assert all("-c constraints.txt" in line for line in machine.installs())
    assert machine.installs()[-1].endswith("-e .")
    before = len(machine.installs())
    assert machine.shell("make venv").returncode == 0
    assert len(machine.installs()) == before


def test_a_failure_shows_the_end_of_the_log_and_is_tried_again(tmp_path):
    machine = Fresh(tmp_path, fail="-e .")
    done = machine.shell("make venv")
    assert done.returncode != 0
    assert "no matching distribution" in done.stderr
    assert "the installation failed" in done.stderr
    assert not (machine.root / ".venv" / ".installed").exists()
    machine.env["FAIL"] = "?"
    assert machine.shell("make venv").returncode == 0


def test_an_environment_that_was_cut_off_halfway_is_made_anew(tmp_path):
    machine = Fresh(tmp_path, venv="broken")
    machine.shell("python3 -m venv .venv")
    assert (machine.root / ".venv" / "no-pip").exists()
    assert machine.shell("make venv").returncode == 0
    assert not (machine.root / ".venv" / "no-pip").exists()


def test_a_newer_python_is_found_where_python3_is_old(tmp_path):
    machine = Fresh(tmp_path, python3_12=PYTHON)
    machine.add(python3="#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3-12").rename(tmp_path / "bin" / "python3.12")
    for name in ("python3.13", "python3.14"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = machine.shell("make venv")
    assert done.returncode == 0, done.stderr
    assert "making .venv with python3.12" in done.stdout


def test_a_folder_with_a_space(tmp_path):
    (tmp_path / "my models").mkdir()
    machine = Fresh(tmp_path / "my models")
    done = machine.shell("make venv")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fail", ["?", "quire generate"])
def test_a_first_run_compiles_kernels_and_need_not_succeed(tmp_path: Path, fail: str) -> None:
    machine = Fresh(tmp_path, fail)
    assert machine.shell("make venv").returncode == 0
    assert machine.asked()[-1].startswith("-m quire generate")
    assert machine.shell("make venv").returncode == 0
    assert sum("quire generate" in line for line in machine.asked()) == 1
