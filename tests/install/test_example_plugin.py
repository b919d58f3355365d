"""The example distribution, built, installed beside quire in a fresh environment, and served."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.house.source import modules
from tests.install.environment import EXAMPLE, ROOT, Environment, build, environ

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("wheels")
    return build(ROOT, work), build(EXAMPLE, work)


@pytest.fixture(scope="module")
def fresh(wheels, tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("fresh") / "venv", *wheels)


def test_the_wheel_holds_every_module_the_model_and_nothing_else(wheels):
    names = {n for n in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in n}
    sources = {"quire/" + module.path for module in modules()}
    assert sources <= names
    model = ROOT / "plugins" / "demo" / "model"
    assert {f"quire/plugins/demo/model/{path.name}" for path in model.iterdir()} <= names
    assert "quire/py.typed" in names
    assert not [n for n in names if n.startswith(("quire/tests", "quire/docs", "quire/examples"))]
    assert {n for n in names if n.endswith(".py")} - sources <= {"quire/testing.py"}


def test_the_examples_own_tests_pass_where_it_is_installed(fresh, tmp_path):
    done = fresh.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    where = fresh.run("python", "-c", "import quire; print(quire.__file__)", cwd=tmp_path)
    assert str(fresh.bin.parent) in where.stdout


def test_list_why_and_check_know_it(fresh, tmp_path):
    listed = fresh.run("quire", "plugins", "list", cwd=tmp_path).stdout
    assert "load it with --plugin example" in listed
    why = fresh.run("quire", "plugins", "why", "shortest", "--plugin", "example", cwd=tmp_path)
    assert "policy shortest is provided by plugin example (quire-example-plugin" in why.stdout
    done = fresh.run("quire", "plugins", "check", "quire-example-plugin", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("shortest", "ParallelForCausalLM", "example"):
        (row,) = [line for line in done.stdout.splitlines() if f" {name} " in line]
        assert "passes" in row


def test_nothing_of_it_is_active_unless_named(fresh, tmp_path):
    done = fresh.run("quire", "plan", "--scheduling-policy", "shortest", cwd=tmp_path)
    assert done.returncode == 2
    assert "installed but not loaded: example" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_its_policy_model_and_route_work_through_serve(fresh, tmp_path):
    made = fresh.run("python", "-m", "quire_example_plugin.tiny", "parallel", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    server = subprocess.Popen(
        fresh.command(
            "quire", "serve", "parallel", "--plugin", "example", "--port", "0",
            "--scheduling-policy", "shortest", "--set", "server.routes=[openai, health, example]",
        ),
        cwd=tmp_path,
        env=environ(),
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        log = ""
        for line in server.stderr or ():
            log += line
            if line.startswith("curl "):
                break
        found = re.search(r"listening on (http://\S+)", log)
        assert found, log
        assert "plugin example 1.0.0, of quire-example-plugin 1.0.0" in log
        example = json.load(urllib.request.urlopen(found[1] + "/example"))
        assert example == {"model": "parallel", "policy": "shortest"}
        body = {"model": "parallel", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}
        request = urllib.request.Request(
            found[1] + "/v1/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        answer = json.load(urllib.request.urlopen(request))
        assert answer["usage"]["completion_tokens"] == 5
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
