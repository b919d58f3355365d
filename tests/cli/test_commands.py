"""The command line as its users meet it: help, errors, exit codes, and what it imports."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "litestar", "matplotlib", "numpy", "tokenizers")
COMMANDS = (
    "serve", "generate", "chat", "plan", "tune", "quantize", "eval", "bench", "plugins", "config",
)  # fmt: skip


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['quire', '--help']\n"
        "try:\n    runpy.run_module('quire', run_name='__main__')\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "bench serve", "bench offline", "config check"])
def test_every_command_has_help(quire, command):
    done = quire(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--set", "cache.blocksize=3"], "did you mean cache.block_size?"),
        (["serve", "--plugin", "absent"], "no installed distribution provides"),
        (["serve", "a", "--model", "b"], "the model is given as"),
        (["plan", "--max-model-len", "long"], "--max-model-len"),
        (["plan", "--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["generate", "x", "--temperature", "-1"], "temperature"),
        (["tune", "demo", "--set", "parallel.platform=cpu"], "nothing to tune on the platform cpu"),
        (["bench", "offline", "--goodput", "speed:3"], "--goodput"),
        (["bench", "offline", "--goodput", "ttft:-1"], "--goodput"),
        (["bench", "offline", "--concurrency", "0"], "--concurrency"),
        (["bench", "offline", "--output", "/dev/null"], "--output"),
        (["bench", "serve", "--rate", "0"], "--rate"),
        (["bench", "serve", "--rate", "nan"], "--rate"),
        (["eval", "-n", "0"], "'-n'"),
        (["serve", "--api-key", ""], "server.api_keys"),
        (["serve", "--served-model-name", ""], "server.served_model_name"),
        (["serve", "--port", "0", "--set", "metrics.port=1000000"], "metrics.port"),
        (["bench", "offline", "--workload", "mixed"], "mixed-64"),
        (["bench", "serve", "--url", "ftp://x"], "--url"),
        (["chat", "--url", "http://127.0.0.1:9"], "quire serve"),
        (["plugins", "why", "fcfss"], "did you mean 'fcfs'?"),
        (["plugins", "check", "no-such-package"], "no-such-package"),
        (["quantize", "demo", "--method", "gguf", "--out", "x"], "--method must be awq, gptq"),
        (["quantize", "demo", "--method", "fp8", "--out", "/dev/null"], "not an empty folder"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(quire, arguments, words):
    done = quire(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("quire:")]) <= 1
    # No phase of a start was begun.
    assert not [line for line in done.stderr.splitlines() if line.endswith(" s")]


PLUGIN = """
from quire.core.hooks import Manifest, Provision, hookimpl
{before}
@hookimpl
def quire_manifest():
    parts = (Provision("policy", "{part}", "x:y"),)
    return Manifest(name="p", version="1", contracts={{"policy": {version}}}, provides=parts)
"""


@pytest.mark.parametrize(
    ("before", "version", "part", "words"),
    [
        ("import no_such_module", 1, "own", "no_such_module"),
        ("", 2, "own", "speaks version 2 of the policy contract"),
        ("", 1, "fcfs", "'quire.plugins.policies' already does"),
    ],
    ids=["import", "version", "twice"],
)
def test_a_plugin_that_cannot_be_used_stops_the_start(
    quire, tmp_path, before, version, part, words
):
    env = install(tmp_path, PLUGIN.format(before=before, version=version, part=part))
    done = quire("serve", "--plugin", "odd", env=env)
    assert done.returncode == 2, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("quire: ")]
    assert words in sentence
    assert "'odd'" in sentence
    assert "Traceback" not in done.stderr


def install(tmp_path, source: str) -> dict[str, str]:
    """A distribution with one plugin; the variables under which it is found."""
    (tmp_path / "odd_plugin.py").write_text(source)
    info = tmp_path / "odd_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quire.plugins]\nodd = odd_plugin\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path}


def test_plugins_check_passes_what_conforms(quire):
    done = quire("plugins", "check", "quire.plugins.policies")
    assert done.returncode == 0
    assert done.stdout.count("passes") == 2


def test_plugins_check_names_the_broken_promise(quire, tmp_path):
    source = PLUGIN.format(before="", version=1, part="moody").replace("x:y", "odd_plugin:Moody")
    env = install(
        tmp_path,
        source + "\nclass Moody:\n    def rank(self, candidate):\n        return ('late',)\n",
    )
    done = quire("plugins", "check", "odd-plugin", env=env)
    assert done.returncode == 1
    assert "fails: rank gave ('late',)" in done.stdout


def test_debug_shows_where_it_came_from(quire):
    done = quire("--debug", "plan", "--set", "cache.blocksize=3")
    assert "Traceback" in done.stderr


def test_version(quire):
    from quire import __version__

    assert quire("--version").stdout.strip() == f"quire {__version__}"


def test_config_schema_and_check(quire, tmp_path):
    assert "CacheConfig" in json.loads(quire("config", "schema").stdout)["$defs"]
    path = tmp_path / "serve.yaml"
    path.write_text("model:\n  name: demo\n")
    done = quire("config", "check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text("model:\n  nam: demo\ncache: {x: 1}\n")
    done = quire("config", "check", str(path))
    assert done.returncode == 2
    assert "did you mean model.name?" in done.stderr
    assert f"{path}:2" in done.stderr
    assert f"{path}:3" in done.stderr


def test_plugins_list_and_why(quire):
    listed = quire("plugins", "list").stdout
    assert "scheduler default" in listed
    assert "built-in" in listed
    done = quire("plugins", "why", "priority")
    assert done.returncode == 0
    assert "policy priority is provided by plugin quire.plugins.policies" in done.stdout
