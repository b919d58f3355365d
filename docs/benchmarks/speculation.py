"""What speculation gains: on a CPU with the embedded pair, on a GPU also with simulated acceptance.

    python docs/benchmarks/speculation.py embedded --repeat 3 --output embedded.json
    python docs/benchmarks/speculation.py useless --repeat 5 --users 1,4,16,64 --output useless.json
    python docs/benchmarks/speculation.py simulated --users 1,8,64,512 --output simulated.json
    python docs/benchmarks/speculation.py overhead --users 1,64 --output overhead.json

`embedded` runs the embedded model with and without drafts, one user at a time, on questions of a
chat, on code to go on with, and on an edit: two tables of settings, and a third one under another
name, which the model fills with entries of the first two; how many tokens of an answer stand in a
run of four that the prompt has is reported beside the speed, and how many answers are plain
decoding's: all of them on a CPU, else the run ends; on a GPU products of 16 bits round otherwise
for more rows. `useless` runs it where nobody can guess the next token, random tokens at a high
temperature, with several users at once; engines that do the very same differ by some per cent
there, all their lives, so a turn is one of several of each kind. `simulated` runs the shape of
Llama 3.1 8B with made-up weights whose logits are all the same, so that the next token is always 0,
and drafts that are 0 as often as a rate says: it measures steps, not drafts. Each rate has
`--repeat` turns, beside as many of the plain engine, behind those of the rate before it, the first
behind the last. `overhead` is the same with drafts that are never right and never fewer than asked
for: what a step with drafts takes beside one without. Engines take turns in one process, those of
the embedded model in an order that changes; its rates are medians over the repetitions, and so are
its ratios, turn by turn, as its turns are short. `speculation_plot.py` draws what is written.
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
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from offline import LLAMA_8B, say

from quire import LLM, SamplingParams
from quire.cli.bench.offline import drive
from quire.cli.bench.workloads import Workload
from quire.core.config import CacheConfig, Config, SpeculationConfig
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
SERVER = (
    '    "host": "localhost",\n    "port": 8000,\n    "timeout": 30,\n    "retries": 3,\n'
    '    "user": "admin",\n    "log_level": "info",\n    "cache_size": 128,\n    "workers": 4,\n}\n'
)
STORE = (
    '    "name": "store",\n    "path": "/tmp/store",\n    "size": 1024,\n    "mode": "read",\n'
    '    "encoding": "utf-8",\n    "buffer": 512,\n    "timeout": 10,\n}\n'
)
MAIL = (
    '    "server": "localhost",\n    "port": 25,\n    "sender": "admin",\n    "subject": "news",\n'
    '    "timeout": 60,\n    "debug": False,\n    "encoding": "utf-8",\n}\n'
)
EDITS = tuple(
    f"DEFAULTS = {{\n{table}\nOPTIONS = {{\n{table}\nSETTINGS = {{\n{table[:18]}"
    for table in (SERVER, STORE, MAIL)
)
METHODS = {
    "plain": SpeculationConfig(),
    "draft model": SpeculationConfig(model="demo-draft"),
    "eagle head": SpeculationConfig(model="demo-eagle"),
    "prompt lookup": SpeculationConfig(method="ngram"),
    "suffix lookup": SpeculationConfig(method="suffix"),
}
RUN = 4
WARM_UP = 3
COPIES = 3
Key = TypeVar("Key")


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=tuple(RUNS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--users", default="1,4,16,64,128,256,512")
    parser.add_argument("--rates", default="0,0.5,0.7,0.9")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = {"what": args.what} | RUNS[args.what](args)
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


def embedded(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of one user, by workload and method."""
    engines = _embedded_engines()
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
    tried: dict[str, list[int]] = {f"{w}, {m}": [0, 0] for w in works for m in METHODS}
    copied: dict[str, float] = {}
    alike: dict[str, float] = {}
    for repetition in range(args.repeat + WARM_UP):
        for work, run in works.items():
            for name in _order(engines, repetition):
                llm = engines[name]
                llm.engine.scheduler.forget_prefixes()
                before = llm.engine.stats()
                begun = time.perf_counter()
                outputs = run(llm, SamplingParams(temperature=0, max_tokens=args.tokens))
                seconds = time.perf_counter() - begun
                after = llm.engine.stats()
                made = [output.outputs[0].token_ids for output in outputs]
                first = tokens.setdefault(work, made)
                alike[f"{work}, {name}"] = sum(map(list.__eq__, first, made)) / len(made)
                if made != first and not torch.cuda.is_available():
                    raise RuntimeError(f"{name} gives other tokens than plain decoding")
                copied[work] = _copied(
                    [(o.prompt_token_ids, o.outputs[0].token_ids) for o in outputs]
                )
                # The first turns warm up, and teach which lengths of drafts pay.
                if repetition >= WARM_UP:
                    rates[work][name].append(sum(map(len, made)) / seconds)
                    counts = tried[f"{work}, {name}"]
                    counts[0] += after.draft_tokens - before.draft_tokens
                    counts[1] += after.accepted_tokens - before.accepted_tokens
    lines = []
    for work, by_name in rates.items():
        for name, values in by_name.items():
            drafts, accepted = tried[f"{work}, {name}"]
            line = {
                "work": work, "method": name, "tok_s": statistics.median(values),
                "least": min(values), "most": max(values),
                "times": _by_turn(values, by_name["plain"]), "drafts": drafts,
                "accepted": accepted / drafts if drafts else None, "copied": copied[work],
                "alike": alike[f"{work}, {name}"],
            }  # fmt: skip
            say(**line)
            lines.append(line)
    return {"lines": lines}


def _embedded_engines() -> dict[str, LLM]:
    """One for each method, all on one device."""
    cache = CacheConfig(memory_gib=1)
    return {
        name: LLM("demo", config=Config(cache=cache, speculation=speculation))
        for name, speculation in METHODS.items()
    }


def _order(engines: dict[Key, LLM], turn: int) -> list[Key]:
    """Plain decoding first, and then any: what an engine leaves in the processor's caches is part
    of what the next one takes."""
    return random.Random(turn).sample(list(engines), len(engines)) if turn else list(engines)


def _by_turn(speeds: list[float], plain: list[float]) -> float:
    """How many times as fast, turn by turn: what slows a machine down slows both."""
    return statistics.median(speed / other for speed, other in zip(speeds, plain, strict=True))


def _copied(pairs: list[tuple[list[int], list[int]]]) -> float:
    """The share of answers' tokens that end a run of RUN tokens that the prompt has."""
    found = total = 0
    for prompt, answer in pairs:
        runs = {tuple(prompt[at : at + RUN]) for at in range(len(prompt) - RUN + 1)}
        whole = [*prompt[1 - RUN :], *answer]
        found += sum(tuple(whole[at : at + RUN]) in runs for at in range(len(answer)))
        total += len(answer)
    return found / total


def useless(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of several users whose tokens nobody can guess."""
    copies = range(COPIES)
    engines = {(name, copy): llm for copy in copies for name, llm in _embedded_engines().items()}
    chance = random.Random(0)
    lines = []
    for users in map(int, args.users.split(",")):
        prompts = [[chance.randrange(6, 4096) for _ in range(32)] for _ in range(users)]
        params = [
            SamplingParams(temperature=3.0, seed=seed, max_tokens=args.tokens, ignore_eos=True)
            for seed in range(users)
        ]
        tokens = users * args.tokens * COPIES
        speeds: dict[str, list[float]] = {name: [] for name in METHODS}
        drafted = dict.fromkeys(METHODS, 0)
        for repetition in range(args.repeat + 1):
            seconds = dict.fromkeys(METHODS, 0.0)
            for name, copy in _order(engines, repetition):
                llm = engines[name, copy]
                llm.engine.scheduler.forget_prefixes()
                before = llm.engine.stats().draft_tokens
                begun = time.perf_counter()
                llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
                seconds[name] += time.perf_counter() - begun
                drafted[name] += (llm.engine.stats().draft_tokens - before) * (repetition > 0)
            if repetition:
                for name, values in speeds.items():
                    values.append(tokens / seconds[name])
        for name, values in speeds.items():
            line = {
                "users": users, "method": name, "tok_s": statistics.median(values),
                "least": min(values), "most": max(values),
                "times": _by_turn(values, speeds["plain"]),
                "drafts_per_token": drafted[name] / (tokens * args.repeat),
            }  # fmt: skip
            say(**line)
            lines.append(line)
    return {"lines": lines}


class Simulated(Speculator):
    """Drafts of token 0, each as often as ``rate`` says, and of another one otherwise."""

    capabilities = Capabilities(features=frozenset({"overlap", "graphs"}))
    rates: ClassVar[list[torch.Tensor]] = []

    def __init__(self, config: Any, context: Any) -> None:
        # Read on the device, where captured calls find it changed.
        self.rate = torch.zeros(1, device=context.device)
        self.rates.append(self.rate)

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


class _Turn(NamedTuple):
    """An engine, and the users beside whom it has one."""

    engine: Engine
    times: int = 1


class _Took(NamedTuple):
    seconds: float
    steps: int


def simulated(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second by users and rate, all turns of a rate together and the first of them, which
    stands behind another rate; None is the plain engine."""
    settings = _made_up(24)
    plain = _engine(load(overrides=settings))
    drafting = _engine(load(overrides=[*settings, "speculation.method=simulated"]))
    rates = [float(rate) for rate in args.rates.split(",")]
    lines = []
    for users in map(int, args.users.split(",")):
        work = _work(users, args.tokens if users <= 64 else args.tokens // 2)
        _timed(plain, work)
        _timed(drafting, work, rates[-1])
        all_plain: list[_Took] = []
        for rate in rates:
            beside, took = [], []
            for _ in range(args.repeat):
                beside.append(_timed(plain, work))
                took.append(_timed(drafting, work, rate))
            all_plain += beside
            changed = beside[0].seconds / took[0].seconds
            line = _rate_line(users, rate, work, took, beside) | {"changed": changed}
            say(**line)
            lines.append(line)
        lines.append(_rate_line(users, None, work, all_plain, all_plain))
        say(**lines[-1])
    return {"device": _device(), "lines": lines}


def _rate_line(
    users: int, rate: float | None, work: Workload, took: list[_Took], beside: list[_Took]
) -> dict[str, Any]:
    speeds = [sum(work.outputs) / turn.seconds for turn in took]
    seconds, plain = (sum(turn.seconds for turn in turns) for turns in (took, beside))
    return {
        "users": users, "rate": rate, "tok_s": sum(work.outputs) * len(took) / seconds,
        "least": min(speeds), "most": max(speeds), "times": plain / seconds,
        "step_ms": 1000 * seconds / sum(turn.steps for turn in took),
    }  # fmt: skip


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step by users and drafts a row, none of which is right; None is the plain
    engine.

    Beside a step with drafts stands one without of as many rows, by as many more users: what it
    takes less is what drafting and verifying cost.
    """
    settings = _made_up(4)
    plain = _engine(load(overrides=settings))
    turns: dict[Any, _Turn] = {None: _Turn(plain)}
    for drafts in (1, 4):
        fixed = [
            "speculation.method=simulated", "speculation.adaptive=false",
            f"speculation.num_speculative_tokens={drafts}",
        ]  # fmt: skip
        turns[f"rows of {drafts}"] = _Turn(plain, times=1 + drafts)
        turns[drafts] = _Turn(_engine(load(overrides=[*settings, *fixed])))
    lines = []
    for users in map(int, args.users.split(",")):
        found: dict[Any, list[float]] = {turn: [] for turn in turns}
        for repetition in range(args.repeat + 1):
            for turn, (engine, times) in turns.items():
                took = _timed(engine, _work(users * times, args.tokens), 0.0)
                if repetition:
                    found[turn].append(1000 * took.seconds / took.steps)
        middle = {turn: statistics.median(values) for turn, values in found.items()}
        for turn, values in found.items():
            line = {
                "users": users, "drafts": turn, "step_ms": middle[turn],
                "least": min(values), "most": max(values),
                "step_times": middle[turn] / middle[None],
            }  # fmt: skip
            if isinstance(turn, int):
                line["overhead"] = (middle[turn] - middle[f"rows of {turn}"]) / middle[None]
            say(**line)
            lines.append(line)
    return {"device": _device(), "lines": lines}


def _made_up(cache_gib: int) -> list[str]:
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return [
        f"model.name={folder}", "model.load_format=dummy", "model.max_model_len=4096",
        f"cache.memory_gib={cache_gib}",
    ]  # fmt: skip


def _work(users: int, length: int) -> Workload:
    """Prompts that share nothing."""
    prompts = [[user + 5] * 32 for user in range(users)]
    return Workload("simulated", prompts, [length] * users)


def _timed(engine: Engine, work: Workload, rate: float | None = None) -> _Took:
    """One turn, in which so many drafts are right."""
    if rate is not None:
        for held in Simulated.rates:
            held.fill_(rate)
    before = engine.stats().step
    begun = time.perf_counter()
    drive(engine, work)
    return _Took(time.perf_counter() - begun, engine.stats().step - before)


def _device() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    say(device=device)
    return device


def _engine(config: Config) -> Engine:
    engine = Engine.start(config, _Registry(), lambda phase, seconds: None)
    model = engine.executor._runner.model  # type: ignore[attr-defined]
    logits = model.logits
    model.logits = lambda hidden: logits(hidden).mul_(0)
    while engine.idle():
        pass
    return engine


RUNS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "embedded": embedded,
    "useless": useless,
    "simulated": simulated,
    "overhead": overhead,
}

if __name__ == "__main__":
    main()
