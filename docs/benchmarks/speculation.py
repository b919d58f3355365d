"""What speculation gains: on a CPU with the embedded pair, on a GPU also with simulated acceptance.

    python docs/benchmarks/speculation.py embedded --repeat 3 --output embedded.json
    python docs/benchmarks/speculation.py simulated --users 1,8,64,512 --output simulated.json

`embedded` runs the embedded model with and without drafts, one user at a time, on questions of a
chat, on code to go on with, and on code to repeat. `simulated` runs the shape of Llama 3.1 8B with
made-up weights whose logits are all the same, so that the next token is always 0, and drafts that
are 0 as often as a rate says: it measures steps, not drafts.
Engines take turns in one process; rates are medians over the repetitions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from offline import LLAMA_8B, say

from quire import LLM, SamplingParams
from quire.cli.bench.offline import drive
from quire.cli.bench.workloads import Workload
from quire.core.config import Config, SpeculationConfig
from quire.core.config_file import load
from quire.core.contracts.capabilities import Capabilities
from quire.core.contracts.speculator import Drafting, Speculator
from quire.core.engine import Engine
from quire.core.registry import Registry

QUESTIONS = (
    "What is 17 + 25?",
    "Write a Python function that adds two numbers.",
    "Write a Python function that reverses a string.",
    "Sort these words: pear, apple, fig, plum.",
    "Hello! How are you?",
    "Write a function is_even in Python.",
)
CODE = (
    "def add(a, b):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\nimport sys\n\n\ndef main():\n",
    "def fib(n):\n    if n < 2:\n",
)
FILE = (
    'def area(width, height):\n    """Area of a rectangle."""\n    return width * height\n\n\n'
    'def total(values):\n    """Sum of the values."""\n    result = 0\n    for value in values:\n'
    "        result = result + value\n    return result\n\n\n"
    'def largest(values):\n    """Largest of the values."""\n    best = values[0]\n'
    "    for value in values:\n        if value > best:\n            best = value\n"
    "    return best\n"
)
EDITS = tuple(f"{FILE}\n\n{FILE[:cut]}" for cut in (60, 90, 120))


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("embedded", "simulated"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--users", default="1,4,16,64,128,256,512")
    parser.add_argument("--rates", default="0,0.5,0.7,0.9")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = embedded(args) if args.what == "embedded" else simulated(args)
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


def embedded(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of one user, by workload and method."""
    methods = {
        "plain": SpeculationConfig(),
        "draft model": SpeculationConfig(model="demo-draft"),
        "eagle head": SpeculationConfig(model="demo-eagle"),
        "prompt lookup": SpeculationConfig(method="ngram"),
        "suffix lookup": SpeculationConfig(method="suffix"),
    }
    engines = {name: LLM("demo", config=Config(speculation=s)) for name, s in methods.items()}
    works: dict[str, Callable[[LLM, SamplingParams], list[Any]]] = {
        "chat": lambda llm, params: [
            llm.chat([{"role": "user", "content": text}], params, use_tqdm=False)[0]
            for text in QUESTIONS
        ],
        "code": lambda llm, params: [llm.generate(t, params, use_tqdm=False)[0] for t in CODE],
        "edit": lambda llm, params: [llm.generate(t, params, use_tqdm=False)[0] for t in EDITS],
    }
    rates: dict[str, dict[str, list[float]]] = {
        work: {name: [] for name in engines} for work in works
    }
    tokens: dict[str, list[Any]] = {}
    for repetition in range(args.repeat + 1):
        for work, run in works.items():
            for name, llm in engines.items():
                llm.engine.scheduler.forget_prefixes()
                begun = time.perf_counter()
                outputs = run(llm, SamplingParams(temperature=0, max_tokens=args.tokens))
                seconds = time.perf_counter() - begun
                made = [output.outputs[0].token_ids for output in outputs]
                if tokens.setdefault(work, made) != made:
                    raise RuntimeError(f"{name} gives other tokens than plain decoding")
                # The first turn warms up, and teaches which lengths of drafts pay.
                if repetition:
                    rates[work][name].append(sum(map(len, made)) / seconds)
    for work, by_name in rates.items():
        plain = statistics.median(by_name["plain"])
        for name, values in by_name.items():
            middle = statistics.median(values)
            say(work=work, method=name, tok_s=middle, least=min(values), most=max(values),
                times=middle / plain)  # fmt: skip
    return {"tok_s": rates}


class Simulated(Speculator):
    """Drafts of token 0, each as often as ``rate`` says, and of another one otherwise."""

    capabilities = Capabilities(features=frozenset({"overlap", "graphs"}))
    rate: torch.Tensor

    def __init__(self, config: Any, context: Any) -> None:
        Simulated.rate = torch.zeros(1, device=context.device)

    def propose(self, drafting: Drafting) -> torch.Tensor:
        """A hash of slot and position decides, so that a replayed graph varies."""
        at = drafting.lengths.unsqueeze(-1) + torch.arange(drafting.most, device=self.rate.device)
        mixed = (at * 2654435761 + drafting.slots.unsqueeze(-1) * 40503) % 2**32
        mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
        return ((mixed ^ (mixed >> 13)) % 10000 >= self.rate * 10000).long()


class _Registry(Registry):
    """With one more speculator."""

    def get(self, kind: str, name: str) -> Any:
        return Simulated if (kind, name) == ("speculator", "simulated") else super().get(kind, name)


def simulated(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second, and milliseconds a step, by users and rate; None is the plain engine."""
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    settings = [
        f"model.name={folder}", "model.load_format=dummy", "model.max_model_len=4096",
        "cache.memory_gib=24",
    ]  # fmt: skip
    plain = _engine(load(overrides=settings))
    drafting = _engine(load(overrides=[*settings, "speculation.method=simulated"]))
    found = []
    rates: list[float | None] = [None, *map(float, args.rates.split(","))]
    for users in map(int, args.users.split(",")):
        length = args.tokens if users <= 64 else args.tokens // 2
        work = Workload("simulated", [[user + 5] * 32 for user in range(users)], [length] * users)
        speeds: dict[float | None, list[float]] = {rate: [] for rate in rates}
        steps: dict[float | None, list[float]] = {rate: [] for rate in rates}
        for repetition in range(args.repeat + 1):
            for rate in rates:
                engine = plain if rate is None else drafting
                if rate is not None:
                    Simulated.rate.fill_(rate)
                before = engine.stats().step
                begun = time.perf_counter()
                drive(engine, work)
                seconds = time.perf_counter() - begun
                if repetition:
                    speeds[rate].append(users * length / seconds)
                    steps[rate].append(1000 * seconds / (engine.stats().step - before))
        base = statistics.median(speeds[None])
        for rate in rates:
            middle = statistics.median(speeds[rate])
            line = {
                "users": users, "rate": rate, "tok_s": middle, "least": min(speeds[rate]),
                "most": max(speeds[rate]), "times": middle / base,
                "step_ms": statistics.median(steps[rate]),
            }  # fmt: skip
            say(**line)
            found.append(line)
    stats = drafting.stats()
    say(
        drafts=stats.draft_tokens,
        accepted=stats.accepted_tokens,
        device=torch.cuda.get_device_name(),
    )
    return {
        "device": torch.cuda.get_device_name(),
        "lines": found,
        "stats": msgspec.to_builtins(stats),
    }


def _engine(config: Config) -> Engine:
    engine = Engine.start(config, _Registry(), lambda phase, seconds: None)
    model = engine.executor._runner.model  # type: ignore[attr-defined]
    logits = model.logits
    model.logits = lambda hidden: logits(hidden).mul_(0)
    while engine.idle():
        pass
    return engine


if __name__ == "__main__":
    main()
