"""The commands with the embedded model: in this process, and against ``quire serve``."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest

from quire.cli.app import run
from quire.cli.chat import LocalSpeaker, RemoteSpeaker
from quire.cli.evaluate import LocalSubject, RemoteSubject, _text, bits_per_byte, tally
from quire.cli.remote import Remote
from quire.cli.serve import _curl
from quire.core.request import SamplingParams
from quire.plugins.demo.curriculum import held_out

QUESTION = "What is 2 + 3?"


@pytest.fixture(scope="module")
def llm():
    from quire import LLM

    return LLM("demo")


def test_generate_streams_its_first_token_before_the_last():
    with subprocess.Popen(
        [sys.executable, "-m", "quire", "generate", "--chat", QUESTION],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        first = os.read(process.stdout.fileno(), 1)
        alive = process.poll() is None
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "5" in (first + rest).decode()
    assert alive


def test_generate_prints_text_on_stdout_and_phases_on_stderr(quire, llm):
    done = quire("generate", "def add(a, b):", "--max-tokens", "12")
    params = SamplingParams(max_tokens=12, temperature=0)
    (expected,) = llm.generate("def add(a, b):", params, use_tqdm=False)
    assert done.stdout == expected.outputs[0].text + "\n"
    assert "weights" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "quire", "generate", "import os", "--max-tokens", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        log = process.stderr.read()
    assert process.returncode == 1
    assert "error" not in log.lower()


def test_an_answer_that_breaks_off_says_so(llm, monkeypatch, capsys):
    runner = llm.engine.executor._runner
    logits = runner.model.logits
    monkeypatch.setattr(runner.model, "logits", lambda hidden: logits(hidden) * float("nan"))
    monkeypatch.setattr("quire.core.llm.LLM.from_config", lambda config, on_phase: llm)
    monkeypatch.setattr(llm, "shutdown", lambda: None)
    for command in (["generate", "import os"], ["chat"]):
        monkeypatch.setattr(sys, "argv", ["quire", *command])
        monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTION + "\n/exit\n"))
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == (1 if command[0] == "generate" else 0)
        assert "quire: the answer broke off: " in capsys.readouterr().err


def test_the_curl_line_survives_any_name():
    name = """it's "m" $HOME `x`"""
    words = shlex.split(_curl("http://127.0.0.1:1", name, key=False))
    assert json.loads(words[-1])["model"] == name


def test_plan_gives_reasons(quire):
    done = quire("plan", "--max-num-seqs", "3", "--api-key", "hush")
    rows = {
        cells[1].strip(): (cells[2].strip(), cells[3].strip())
        for line in done.stdout.splitlines()
        if len(cells := line.split("│")) == 5
    }
    assert rows["schedule.max_num_seqs"] == ("3", "as given")
    assert rows["parallel.platform"][0] != '"auto"'
    assert rows["parallel.platform"][1] not in ("default", "as given")
    assert '"auto"' not in {value for value, _ in rows.values()}
    assert "hush" not in done.stdout


def test_serve_prints_phases_and_a_curl_line_that_works(served):
    assert "weights" in served.log
    line = served.log.splitlines()[-1]
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60)
    message = json.loads(done.stdout)["choices"][0]["message"]
    assert "5" in message["content"]


def test_a_port_in_use_is_a_users_mistake(quire, served):
    port = served.url.rsplit(":", 1)[1]
    for flags in (["--port", port], ["--port", "0", "--metrics-port", port]):
        done = quire("serve", *flags)
        assert done.returncode == 2
        assert "choose another " + ("metrics" if len(flags) == 4 else "server") in done.stderr
        assert "Traceback" not in done.stderr
        assert "weights" not in done.stderr


def test_chat_remembers_resets_and_exits(quire, served):
    lines = f"{QUESTION}\n/reset\n/quit\n\nAnd again?\n/exit\n"
    for arguments in (("--url", served.url), ()):
        done = quire("chat", *arguments, input=lines)
        assert done.returncode == 0, done.stderr
        assert "5" in done.stdout
        assert "forgotten" in done.stdout
        assert done.stdout.count("/exit ends") == 2, "a command that is none shows those there are"


def test_both_speakers_say_the_same(llm, served):
    params = SamplingParams(max_tokens=32, temperature=0)
    messages = [{"role": "user", "content": QUESTION}]
    here = list(LocalSpeaker(llm, params).answer(messages))
    there = list(RemoteSpeaker(Remote(served.url), "demo", params).answer(messages))
    assert "".join(here) == "".join(there)
    assert len(there) > 2


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_stops_the_answer_and_not_the_program(llm):
    params = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
    messages = [{"role": "user", "content": QUESTION}]
    pieces: list[str] = []

    def listen() -> None:
        for piece in LocalSpeaker(llm, params).answer(messages):
            pieces.append(piece)
            if len(pieces) == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        listen()
    assert 3 <= len(pieces) <= 4
    assert not llm.engine.has_work()
    assert list(LocalSpeaker(llm, SamplingParams(max_tokens=4)).answer(messages))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_bench_serve_and_offline_leave_their_files(quire, served, tmp_path):
    common = ("--workload", "smoke-4", "--output", str(tmp_path / "a"), "--goodput", "e2e:60000")
    for command in (("serve", "--url", served.url, "--concurrency", "2"), ("offline",)):
        done = quire("bench", *command, *common)
        assert done.returncode == 0, done.stderr
        for word in ("TTFT ms", "TPOT ms", "ITL ms", "E2E ms", "p99", "goodput"):
            assert word in done.stdout
        (path,) = (tmp_path / "a").glob("smoke-4-*.json")
        whole = json.loads(path.read_text())
        assert whole["report"]["requests"] == 4
        assert whole["report"]["short"] == 0
        assert all(sum(s["counts"]) == s["wanted"] for s in whole["samples"])
        assert whole["settings"]["machine"]["quire"]
        path.with_suffix(".png").unlink()
        path.unlink()


def test_both_subjects_answer_and_score_alike(llm, served):
    examples = held_out(1, 0)
    here, there = LocalSubject(llm), RemoteSubject(Remote(served.url), "demo")
    answers = here.answer(examples)
    remote = there.answer(examples)
    alike = {e.task: a == b for e, a, b in zip(examples, answers, remote, strict=True)}
    # In bfloat16 a batch of another size may round another way, which a long answer shows.
    assert sum(alike.values()) >= 13
    assert alike["tool_call"]
    assert sum(row[2] for row in tally(examples, answers)) >= 10
    texts = ["def add(a, b):\n    return a + b\n", "import os\n"]
    assert here.log_likelihood(texts) == pytest.approx(there.log_likelihood(texts), rel=1e-3)
    assert 0 < bits_per_byte(here.log_likelihood(texts), texts) < 8


def test_a_call_that_a_server_took_out_of_the_text_counts_as_written():
    (example,) = [e for e in held_out(1, 0) if e.task == "tool_call"]
    written = json.loads(example.answer)
    function = {"name": written["name"], "arguments": json.dumps(written["arguments"])}
    message = {"content": None, "tool_calls": [{"type": "function", "function": function}]}
    assert [row[2:] for row in tally([example], [_text(message)])] == [(1, 1, 1)]


def test_a_model_is_quantized_reported_and_runs(quire, tmp_path):
    out = tmp_path / "out"
    words = ["--samples", "8", "--length", "128"]
    done = quire("quantize", "demo-draft", "--method", "gptq", "--out", str(out), *words)
    assert done.returncode == 0, done.stderr
    assert "gptq, 4 bits, groups of" in done.stderr and "about" in done.stderr
    assert "model.layers.0.mlp.down_proj" in done.stdout
    for line in ("kept: embedding", "weights: ", "perplexity on held-out text: ", "wrote "):
        assert line in done.stdout
    told = quire("generate", "import os", "--model", str(out), "--max-tokens", "4")
    assert told.returncode == 0 and told.stdout.strip(), told.stderr
    again = quire("quantize", "demo-draft", "--method", "gptq", "--out", str(out), *words)
    assert again.returncode == 2 and "not an empty folder" in again.stderr


def test_eval_of_a_server_prints_the_table(quire, served):
    done = quire("eval", "--url", served.url, "-n", "1", "--kilobytes", "1")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1:3] for row in rows if "tool_call" in row]
    assert "bits per byte" in done.stdout
    (total,) = [row for row in rows if "all" in row]
    numbers = [int(cell) for cell in total if cell.isdigit()]
    assert numbers[0] == 15
    assert numbers[1] >= 10


def test_right_answers_and_only_they_count():
    examples = held_out(2, 0)
    right = tally(examples, [example.answer for example in examples])
    wrong = tally(examples, ["{" for _ in examples])
    assert [row[1] for row in right] == [row[2] for row in right]
    assert all(row[3] == row[4] for row in right)
    assert all(row[2] == row[4] == 0 for row in wrong)


def test_keys_metrics_and_names_given_as_flags_take_effect(tmp_path):
    from tests.cli.conftest import Served

    server = Served("--api-key", "k1", "--served-model-name", "mine", "--no-enable-metrics")
    try:
        assert "Authorization: Bearer YOUR-KEY" in server.log
        assert "k1" not in server.log
        assert asyncio.run(Remote(server.url, "k1").model()) == "mine"
        assert _status(server.url + "/v1/models") == 401
        assert _status(server.url + "/metrics", "k1") == 404
    finally:
        assert server.stop() == 0


def _status(url: str, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
