"""Run named workloads through one engine and print a JSON line each.

    python docs/benchmarks/offline.py MODEL latency-1,decode-64 --repeat 3 --set KEY=VALUE ...

MODEL is whatever `quire serve` takes, or `llama-8b`: the shape of Llama 3.1 8B with made-up
weights, for which nothing need be downloaded. `ttft-512` is one prompt of 512 tokens and its first
token, the median of ten. The prefix cache is emptied between repetitions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from quire.cli.bench.offline import drive
from quire.cli.bench.workloads import Workload, make
from quire.core.config import Config
from quire.core.config_file import load
from quire.core.engine import Engine
from quire.core.registry import Registry

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}


def main() -> None:
    """Start once, run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("workloads", help="names, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    begun = time.perf_counter()
    phases: dict[str, float] = {}
    engine = Engine.start(_config(args.model, args.set), Registry(), phases.__setitem__)
    started = time.perf_counter() - begun
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    say(engine="quire", start_s=started, device=gpu, phases=phases)
    drive(engine, _work(engine, "smoke-4"))
    for name in args.workloads.split(","):
        if name == "ttft-512":
            _first_token(engine)
        else:
            _measure(engine, name, args.repeat)
    engine.shutdown()


def _measure(engine: Engine, name: str, repeat: int) -> None:
    work = _work(engine, name)
    seconds = []
    for _ in range(repeat):
        engine.scheduler.forget_prefixes()
        begun = time.perf_counter()
        samples = drive(engine, work)
        seconds.append(time.perf_counter() - begun)
        if [sum(sample.counts) for sample in samples] != work.outputs:
            raise RuntimeError("a request is short of tokens")
    made, read = sum(work.outputs), sum(map(len, work.prompts))
    middle = statistics.median(seconds)
    say(
        workload=name,
        s=middle,
        least_s=min(seconds),
        most_s=max(seconds),
        out_tok_s=made / middle,
        total_tok_s=(made + read) / middle,
    )


def _first_token(engine: Engine) -> None:
    work = _work(engine, "batch-1024")
    seconds = []
    for prompt in work.prompts[:10]:
        begun = time.perf_counter()
        drive(engine, Workload("ttft-512", [prompt], [1]))
        seconds.append(time.perf_counter() - begun)
    middle = statistics.median(seconds)
    say(workload="ttft-512", s=middle, least_s=min(seconds), most_s=max(seconds))


def _work(engine: Engine, name: str) -> Workload:
    longest = engine.info.config.model.max_model_len or 2048
    return make(name, vocab_size=engine.info.vocab_size, max_model_len=longest)


def _config(model: str, changes: list[str]) -> Config:
    if model != "llama-8b":
        return load(overrides=[f"model.name={model}", *changes])
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    ours = [f"model.name={folder}", "model.load_format=dummy", "model.max_model_len=20000"]
    return load(overrides=[*ours, *changes])


def say(**values: object) -> None:
    """Print a JSON line."""
    shown = {
        key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()
    }
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
