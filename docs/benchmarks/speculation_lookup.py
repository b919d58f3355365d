"""Prompt lookup of quire or of vLLM, on the same prompts.

    python docs/benchmarks/speculation_lookup.py quire --output lookup-quire.json
    python docs/benchmarks/speculation_lookup.py vllm --output lookup-vllm.json

Prompts are token ids, the edits of `speculation.py` for the embedded model. With `--made-up`
weights, of Llama 3.1 8B's shape, they are random tokens with the first of them again: such a model
copies nothing but soon repeats itself, which lookup finds just the same. Each engine runs with
lookup and without, one after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRAFTS, LONGEST, LEAST = 8, 4, 2
EMBEDDED = Path(__file__).parents[2] / "plugins" / "demo" / "model"
Run = Callable[[list[list[int]], int], int]


def main() -> None:
    """Time one engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("quire", "vllm"))
    parser.add_argument("--made-up", action="store_true")
    parser.add_argument("--users", default="1,16,64")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    folder, length = (_made_up(), 4096) if args.made_up else (EMBEDDED, 2048)
    start = start_quire if args.engine == "quire" else start_vllm
    lines: list[dict[str, Any]] = []
    for lookup in (False, True):
        run = start(folder, length, made_up=args.made_up, lookup=lookup)
        for users in map(int, args.users.split(",")):
            prompts = _prompts(users, made_up=args.made_up)
            speeds = []
            for repetition in range(args.repeat + 1):
                begun = time.perf_counter()
                tokens = run(prompts, args.tokens)
                if repetition:
                    speeds.append(tokens / (time.perf_counter() - begun))
            line = {
                "engine": args.engine, "lookup": lookup, "users": users,
                "tok_s": statistics.median(speeds), "least": min(speeds), "most": max(speeds),
            }  # fmt: skip
            print(json.dumps(line), flush=True)
            lines.append(line)
    if args.output is not None:
        args.output.write_text(json.dumps({"what": "lookup", "lines": lines}, indent=1) + "\n")


def start_quire(folder: Path, length: int, *, made_up: bool, lookup: bool) -> Run:
    """An engine, to be given prompts and a number of tokens."""
    from quire.cli.bench.offline import drive
    from quire.cli.bench.workloads import Workload
    from quire.core.config_file import load
    from quire.core.engine import Engine
    from quire.core.registry import Registry

    settings = [
        f"model.name={folder}", f"model.max_model_len={length}", "cache.prefix_caching=false",
        "cache.memory_gib=16",
        f"model.load_format={'dummy' if made_up else 'safetensors'}",
    ]  # fmt: skip
    if lookup:
        settings += [
            "speculation.method=ngram", f"speculation.num_speculative_tokens={DRAFTS}",
            f"speculation.prompt_lookup_max={LONGEST}", f"speculation.prompt_lookup_min={LEAST}",
        ]  # fmt: skip
    engine = Engine.start(load(overrides=settings), Registry(), lambda phase, seconds: None)
    while engine.idle():
        pass

    def run(prompts: list[list[int]], tokens: int) -> int:
        samples = drive(engine, Workload("lookup", prompts, [tokens] * len(prompts)))
        return sum(sum(sample.counts) for sample in samples)

    return run


def start_vllm(folder: Path, length: int, *, made_up: bool, lookup: bool) -> Run:
    """The same of vLLM."""
    from vllm import LLM, SamplingParams

    speculation = {
        "method": "ngram", "num_speculative_tokens": DRAFTS,
        "prompt_lookup_max": LONGEST, "prompt_lookup_min": LEAST,
    }  # fmt: skip
    llm = LLM(
        model=str(folder),
        load_format="dummy" if made_up else "auto",
        max_model_len=length,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        gpu_memory_utilization=0.4,
        speculative_config=speculation if lookup else None,
    )

    def run(prompts: list[list[int]], tokens: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def _prompts(users: int, *, made_up: bool) -> list[list[int]]:
    if made_up:
        chance = random.Random(0)
        texts = [[chance.randrange(1000, 100_000) for _ in range(400)] for _ in range(users)]
        return [text + text[:40] for text in texts]
    from speculation import EDITS
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    ids = [[0, *tokenizer.encode(text, add_special_tokens=False).ids] for text in EDITS]
    return [ids[user % len(ids)] for user in range(users)]


def _made_up() -> Path:
    from offline import LLAMA_8B

    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return folder


if __name__ == "__main__":
    main()
