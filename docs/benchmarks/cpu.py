"""Compare quire on a CPU with transformers, and with vLLM's CPU build where one is installed.

    python docs/benchmarks/cpu.py embedded --repeat 3 --output embedded.json
    python docs/benchmarks/cpu.py small --repeat 3 --vllm /path/to/venv/bin/python --output s.json

`embedded` runs the workload mixed-64 on the embedded model; `small` runs latency-small (one user)
and decode-16 (16 users) on a Llama of 58 million parameters with made-up weights, written as a
bfloat16 checkpoint that every engine loads. Each engine runs in a process of its own, all are
started first, and then they take turns: every engine runs once a repetition, one at a time.
transformers runs with padded static batches, in the workload's order and by output length, and
only tokens that were asked for are counted. One by one, it is given every fourth request.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Work = dict[str, list[Any]]
SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
ENGINES = {
    "embedded": ("quire auto", "transformers float32 sdpa", "transformers bfloat16 sdpa"),
    "small": (
        "quire auto",
        "quire bfloat16",
        "transformers float32 sdpa",
        "transformers float32 eager",
        "transformers bfloat16 sdpa",
    ),
}
BATCHES = (8, 16, 32, 64)


def main() -> None:
    """Start the engines, let them take turns, print and save what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=[*ENGINES, "worker"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vllm", help="the Python that has vLLM's CPU build")
    parser.add_argument("--vllm-dtype", default="float32")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.model == "worker":
        _serve(*args.worker)
        return
    folder = _checkpoint() if args.model == "small" else _demo()
    engines = dict.fromkeys(ENGINES[args.model], sys.executable)
    if args.vllm:
        engines[f"vllm {args.vllm_dtype}"] = args.vllm
    workers = {name: _Worker(python, name, folder) for name, python in engines.items()}
    for worker in workers.values():
        worker.wait()
    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for repetition in range(args.repeat + 1):
        for case, name, works in _cases(args.model, list(workers)):
            spent = sum(workers[name].run(work) for work in works)
            print(f"{repetition}, {case}, {name}: {spent:.2f} s", file=sys.stderr, flush=True)
            # The first turn warms caches and allocators up.
            if repetition:
                seconds.setdefault(f"{case}, {name}", []).append(spent)
                counts[f"{case}, {name}"] = sum(sum(work["wanted"]) for work in works)
    for worker in workers.values():
        worker.stop()
    _report(args.output, seconds, counts)


def _cases(model: str, engines: Sequence[str]) -> Iterator[tuple[str, str, list[Work]]]:
    """(what, engine, the batches that it runs one after another)."""
    names = ("mixed-64",) if model == "embedded" else ("latency-small", "decode-16")
    for workload in names:
        work = _work(workload, 4096 if model == "embedded" else SHAPE["vocab_size"])
        for engine in engines:
            static = engine.startswith("transformers")
            if not static or model == "small":
                yield workload, engine, [work]
                continue
            yield f"{workload} one by one", engine, [_part(work, [i]) for i in range(0, 64, 4)]
            by_length = sorted(range(64), key=work["wanted"].__getitem__)
            for size in BATCHES:
                for order, which in (("in order", list(range(64))), ("by length", by_length)):
                    if size < 64 or order == "in order":
                        batches = [which[at : at + size] for at in range(0, 64, size)]
                        yield (
                            f"{workload} batches of {size} {order}",
                            engine,
                            [_part(work, batch) for batch in batches],
                        )


def _work(name: str, vocab_size: int) -> Work:
    from quire.cli.bench.workloads import make

    made = make(name, vocab_size=vocab_size, max_model_len=2048)
    return {"prompts": made.prompts, "wanted": made.outputs}


def _part(work: Work, which: list[int]) -> Work:
    return {key: [values[index] for index in which] for key, values in work.items()}


class _Worker:
    """An engine in a process of its own, which runs what it is told and says how long it took."""

    def __init__(self, python: str, name: str, folder: str) -> None:
        command = [python, __file__, "worker", "--worker", name, folder]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._name = name

    def wait(self) -> None:
        """Until it has loaded the model; then it stands still, since some engines poll."""
        self._read()
        os.killpg(self._process.pid, signal.SIGSTOP)

    def run(self, work: Work) -> float:
        """Seconds that the engine took for it."""
        if self._process.stdin is None:
            raise RuntimeError("a worker without a pipe")
        os.killpg(self._process.pid, signal.SIGCONT)
        print(json.dumps(work), file=self._process.stdin, flush=True)
        seconds = float(self._read())
        os.killpg(self._process.pid, signal.SIGSTOP)
        return seconds

    def stop(self) -> None:
        """End it."""
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.communicate()

    def _read(self) -> str:
        for line in self._process.stdout or ():
            if line.startswith("answer "):
                return line.removeprefix("answer ")
        raise RuntimeError(f"{self._name} ended with code {self._process.wait()}")


def _serve(name: str, folder: str) -> None:
    """A worker's life: work by JSON lines in, seconds out."""
    engine, dtype, *rest = name.split()
    start = {"quire": _quire, "transformers": _transformers, "vllm": _vllm}[engine]
    run = start(folder, dtype, *rest)
    print("answer ready", flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        begun = time.perf_counter()
        run(work["prompts"], work["wanted"])
        print("answer", time.perf_counter() - begun, flush=True)


def _quire(folder: str, dtype: str) -> Any:
    from quire.cli.bench.offline import drive
    from quire.cli.bench.workloads import Workload
    from quire.core.config_file import load
    from quire.core.engine import Engine
    from quire.core.registry import Registry

    config = load(overrides=[f"model.name={folder}", f"model.dtype={dtype}"])
    engine = Engine.start(config, Registry(), lambda phase, seconds: None)

    def run(prompts: list[list[int]], wanted: list[int]) -> None:
        engine.scheduler.forget_prefixes()
        samples = drive(engine, Workload("cpu", prompts, wanted))
        if [sum(sample.counts) for sample in samples] != wanted:
            raise RuntimeError("a request is short of tokens")

    return run


def _transformers(folder: str, dtype: str, attention: str) -> Any:
    import torch
    from static_batch import generate
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )

    def run(prompts: list[list[int]], wanted: list[int]) -> None:
        generate(model, prompts, max(wanted))

    return run


def _vllm(folder: str, dtype: str) -> Any:
    cores = max(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{cores}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    llm = LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=64,
        enable_prefix_caching=False,
    )

    def run(prompts: list[list[int]], wanted: list[int]) -> None:
        params = [
            SamplingParams(
                temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False
            )
            for n in wanted
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        found = llm.generate(asked, params, use_tqdm=False)
        if [len(output.outputs[0].token_ids) for output in found] != wanted:
            raise RuntimeError("a request is short of tokens")

    return run


def _checkpoint() -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _demo() -> str:
    import quire.plugins.demo

    return str(Path(quire.plugins.demo.__file__).parent / "model")


def _report(output: Path | None, seconds: dict[str, list[float]], counts: dict[str, int]) -> None:
    rates = {name: [counts[name] / s for s in spent] for name, spent in seconds.items()}
    for name, found in rates.items():
        middle = statistics.median(found)
        print(f"{name}: {middle:.0f} tok/s ({min(found):.0f} to {max(found):.0f})", flush=True)
    if output is not None:
        import torch

        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
        }
        output.write_text(
            json.dumps({"machine": machine, "tokens": counts, "seconds": seconds}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
