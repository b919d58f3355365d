"""Run named workloads through one engine and print a JSON line each.

    python docs/benchmarks/offline.py MODEL latency-1,decode-64 --repeat 3 --set KEY=VALUE ...
    python docs/benchmarks/offline.py llama-70b decode-64 --weights awq

MODEL is whatever `quire serve` takes, or `llama-8b` or `llama-70b`: the shape of Llama 3.1 with
made-up weights, for which nothing need be downloaded; `--weights` says how they are stored.
`ttft-512` is one prompt of 512 tokens and its first token, the median of ten. The prefix cache is
emptied between repetitions.
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
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
SHAPES: dict[str, dict[str, object]] = {"llama-8b": LLAMA_8B, "llama-70b": LLAMA_70B}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
_AWQ = {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
# As checkpoints' config.json names them; None for weights that are quantized while loading.
WEIGHTS: dict[str, dict[str, object] | None] = {
    "awq": {"quant_method": "awq", **_AWQ},
    "gptq": {**_GPTQ, "desc_act": False},
    "gptq-desc-act": {**_GPTQ, "desc_act": True},
    "fp8": None,
}


def main() -> None:
    """Start once, run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", choices=tuple(WEIGHTS))
    parser.add_argument("workloads", help="names, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    begun = time.perf_counter()
    phases: dict[str, float] = {}
    engine = Engine.start(
        _config(args.model, args.set, args.weights), Registry(), phases.__setitem__
    )
    started = time.perf_counter() - begun
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    taken = torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else None
    say(
        engine="quire",
        model=args.model,
        weights=args.weights,
        start_s=started,
        device=gpu,
        phases=phases,
        allocated_gb=taken,
    )
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


def _config(model: str, changes: list[str], weights: str | None) -> Config:
    if model not in SHAPES:
        return load(overrides=[f"model.name={model}", *changes])
    ours = [f"model.name={made_up(model, weights)}", "model.load_format=dummy"]
    if weights is not None and WEIGHTS[weights] is None:
        ours.append(f"model.quantization={weights}")
    return load(overrides=[*ours, "model.max_model_len=20000", *changes])


def made_up(model: str, weights: str | None) -> Path:
    """A folder with the shape of a model, and nothing else, for weights stored in this way."""
    stored = WEIGHTS[weights] if weights else None
    folder = Path(tempfile.mkdtemp())
    shape = SHAPES[model] | ({"quantization_config": stored} if stored else {})
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


def say(**values: object) -> None:
    """Print a JSON line."""
    shown = {
        key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()
    }
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
