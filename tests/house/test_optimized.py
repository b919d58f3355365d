"""What guards must hold where ``python -O`` has removed every assertion."""

import subprocess
import sys

PROGRAM = """
import pathlib, sys, tempfile
import jinja2, msgspec
from quire import SamplingParams
from quire.core import wire
from quire.core.errors import CheckpointError, InvalidRequest, PluginError, QuireError
from quire.core.registry import Registry
from quire.core.text.sandbox import budget, compile_template
from quire.core.weights.stream import stream_tensors
from quire.server.auth import Keys

if __debug__:
    sys.exit("this must run under -O")

passed = 0
def refused(error, call):
    global passed
    try:
        call()
    except error:
        passed += 1
    else:
        sys.exit(f"guard {passed} let it through")

refused(InvalidRequest, lambda: SamplingParams(n=10**6))
refused(InvalidRequest, lambda: SamplingParams(temperature=float("nan")))
refused(msgspec.ValidationError, lambda: wire.decode_call(b"\\x80"))
refused(PluginError, lambda: Registry(("absent",)))

def render(text):
    with budget():
        compile_template(text).render()
refused(jinja2.TemplateError, lambda: render("{{ ''.__class__.__mro__ }}"))
refused(jinja2.TemplateError, lambda: render("{% for i in range(10**9) %}{% endfor %}"))

keys = Keys(["secret"])
def admit(value):
    if not keys.admit([(b"authorization", value)]):
        raise PermissionError
refused(PermissionError, lambda: admit(b"Bearer wrong"))
refused(PermissionError, lambda: admit(b""))
admit(b"Bearer secret")

folder = pathlib.Path(tempfile.mkdtemp())
(folder / "model.safetensors.index.json").write_text(
    '{"weight_map": {"a": "../../etc/passwd"}}'
)
refused(CheckpointError, lambda: list(stream_tensors(folder)))
print(passed)
"""


def test_guards_hold_under_optimization():
    done = subprocess.run(
        [sys.executable, "-O", "-c", PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "9"
