"""Every command of the README, run; and the Makefile's two targets behind it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from quire.core.config_file import load
from tests.cli.conftest import Served
from tests.install.environment import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line]
QUIRE = [line for line in LINES if line.startswith("quire ")]
YAML = next(text for kind, text in BLOCKS if kind == "yaml")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "serve.yaml").write_text(YAML)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "yaml"}
    rest = [line for line in LINES if line not in QUIRE and not line.startswith("curl ")]
    assert rest == ["make serve", "make chat"]


@pytest.mark.parametrize("line", QUIRE)
def test_quire_commands(line, folder):
    command = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_python_block(folder):
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_yaml_block(folder):
    config = load(folder / "serve.yaml")
    written = yaml.safe_load(YAML)
    assert config.schedule.policy == written["schedule"]["policy"]
    assert list(config.server.api_keys) == written["server"]["api_keys"]


def test_curl_line_against_what_make_serve_starts():
    (line,) = [line for line in LINES if line.startswith("curl ")]
    server = Served()
    try:
        there = line.replace("http://127.0.0.1:8000", server.url)
        assert there != line
        done = subprocess.run(shlex.split(there), capture_output=True, text=True, timeout=60)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(("target", "command"), [("serve", "quire serve"), ("chat", "quire chat")])
def test_make_runs_what_it_says(target, command):
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert f".venv/bin/{command}" in done.stdout
    assert "-c constraints.txt" in done.stdout or (ROOT / ".venv" / ".installed").exists()


def test_python_that_is_too_old_is_refused_with_a_sentence(tmp_path):
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (bin / name).write_text("#!/bin/sh\nexit 1\n")
        (bin / name).chmod(0o755)
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = subprocess.run(
        ["make", "venv"],
        cwd=tmp_path,
        env={"PATH": f"{bin}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "quire needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
