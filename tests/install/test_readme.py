"""Every command of the README, as a newcomer types it on a machine with a Python and nothing else.

One environment is made, by the first command, and shared by all.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from quire.core.config_file import load
from tests.install.environment import ROOT, Machine

pytestmark = pytest.mark.install

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line]
QUIRE = [line for line in LINES if line.startswith("quire ")]
YAML = next(text for kind, text in BLOCKS if kind == "yaml")
ACTIVATE = re.search(r"`(source \S+)`", README)[1]
INSTALLING = "installing"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, str, str]]:
    """The machine after `make serve`, what that printed, and what its curl line answered."""
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(folder)
    with machine.serving("make serve ARGS='--port 0'") as log:
        curl = log.splitlines()[-1]
        answer = machine.shell(curl).stdout
    yield machine, log, answer
    # Several GB, which the folders that pytest keeps should not hold.
    shutil.rmtree(folder)


@pytest.fixture
def machine(newcomer: tuple[Machine, str, str]) -> Machine:
    return newcomer[0]


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "yaml"}
    rest = [line for line in LINES if line not in QUIRE and not line.startswith("curl ")]
    assert rest == ["make serve", "make chat"]


def test_make_serve_makes_the_environment_and_serves(newcomer):
    _, log, answer = newcomer
    assert INSTALLING in log
    assert "listening on http://127.0.0.1:" in log
    assert "5" in json.loads(answer)["choices"][0]["message"]["content"]


def test_the_curl_line_is_the_one_that_serve_prints(newcomer):
    (line,) = [line for line in LINES if line.startswith("curl ")]
    printed = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", newcomer[1].splitlines()[-1])
    assert line == printed


def test_make_chat_talks(machine):
    done = machine.shell("make chat", input="What is 2 + 3?\n")
    assert done.returncode == 0, done.stderr
    assert "5" in done.stdout
    assert INSTALLING not in done.stderr + done.stdout


def test_a_second_run_installs_nothing(machine):
    log = machine.root / ".venv" / "install.log"
    before = log.stat().st_mtime_ns
    done = machine.shell("make venv")
    assert (done.returncode, done.stderr) == (0, "")
    assert INSTALLING not in done.stdout
    assert log.stat().st_mtime_ns == before


def test_versions_are_those_that_were_tested_together(machine):
    pinned = set((machine.root / "constraints.txt").read_text().lower().splitlines())
    frozen = machine.shell(f"{ACTIVATE} && python -m pip freeze --exclude-editable").stdout
    for line in frozen.lower().splitlines():
        name, _, version = line.replace("_", "-").partition("==")
        if name.startswith(("nvidia-", "cuda-", "triton")):
            continue  # What a build of torch brings along is its own affair.
        names = {pin.replace("_", "-") for pin in pinned}
        assert f"{name}=={version.partition('+')[0]}" in names, line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "serve.yaml").write_text(YAML)
    return tmp_path


@pytest.mark.parametrize("line", QUIRE)
def test_quire_commands(line, machine, folder):
    there = f"cd {machine.root} && {ACTIVATE} && cd {folder} && {line}"
    done = machine.shell(there)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_python_block(machine, folder):
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    (folder / "quick.py").write_text(code)
    done = machine.shell(f"{machine.root}/.venv/bin/python quick.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_yaml_block(folder):
    config = load(folder / "serve.yaml")
    written = yaml.safe_load(YAML)
    assert config.schedule.policy == written["schedule"]["policy"]
    assert list(config.server.api_keys) == written["server"]["api_keys"]


def test_python_that_is_too_old_is_refused_with_a_sentence(tmp_path):
    machine = Machine(tmp_path)
    programs = tmp_path / "bin"
    (programs / "python3").unlink()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    done = machine.shell("make venv")
    assert done.returncode != 0
    assert "quire needs Python 3.11 or newer" in done.stderr
    assert not (machine.root / ".venv").exists()
