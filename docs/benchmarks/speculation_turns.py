"""What drafts gain and choosing them costs where steps are short: the embedded model on a GPU.

    python docs/benchmarks/speculation_turns.py --repeat 50 --users 1,16,64 --output turns.json
    python docs/benchmarks/speculation_turns.py --work chat --output chat.json

Engines with and without drafts that are captured ahead are given the same edits, questions of a
chat or code to go on with, over and over, in one process and in an order that changes. Edits are as
long as they may be, the rest ends where the model ends it. Engines that do the very same differ by
one or two per cent, all their lives, so there are several of each kind and their times are put
together; how far plain ones are apart is reported as well, and what a ratio might have been by
chance. The first ten turns are told from those behind them, when it is known what drafts cost, and
from all of them. Others may use a virtual machine's cores, and a loop that needs only the processor
then takes up to twice as long, as does all that a host does: a turn begins on a core where it does
not, if there is one, and quiet are turns before and behind which it did not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from offline import say
from speculation import CODE, EDITS, METHODS, QUESTIONS

from quire import LLM, SamplingParams
from quire.core.config import CacheConfig, Config

FIRST = 10
LOOP = 20_000
QUIET = 1.15
WORKS: dict[str, list[Any]] = {
    "edit": list(EDITS),
    "code": list(CODE),
    "chat": [[{"role": "user", "content": text}] for text in QUESTIONS],
}
SAMPLES = 2_000
Seconds = np.ndarray[Any, np.dtype[np.float64]]


class Kind:
    """Engines that do the same.

    Attributes:
        engines: they.
        seconds: of their turns, for as many tokens as there may be, [engine, turn].
        loops: of the loop before and behind each of those, the longer one, [engine, turn].
        drafts: verified in each, [engine, turn].
    """

    def __init__(self, engines: list[LLM], turns: int) -> None:
        self.engines = engines
        self.seconds, self.loops, self.drafts = np.zeros((3, len(engines), turns))


def main() -> None:
    """Run it for each number of users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--users", default="1,16,64")
    parser.add_argument("--work", choices=tuple(WORKS), default="edit")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--copies", type=int, default=3, help="engines of each kind")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    names = ["plain", *(name for name in args.methods.split(",") if name != "plain")]
    engines = {name: [_engine(name) for _ in range(args.copies)] for name in names}
    lines = []
    for users in map(int, args.users.split(",")):
        kinds = _run(engines, users, args)
        fastest = min(kind.loops.min() for kind in kinds.values())
        for name, kind in kinds.items():
            line: dict[str, Any] = {"users": users, "work": args.work, "method": name}
            line |= _compare(kinds["plain"], kind, fastest)
            say(**line)
            measured = {what: getattr(kind, what).tolist() for what in ("seconds", "loops")}
            lines.append(line | measured | {"drafts": kind.drafts.astype(int).tolist()})
        if args.output is not None:
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            found = {"what": "turns", "device": device, "lines": lines}
            args.output.write_text(json.dumps(found) + "\n")


def _engine(name: str) -> LLM:
    """One that is captured ahead."""
    llm = LLM("demo", config=Config(cache=CacheConfig(memory_gib=1), speculation=METHODS[name]))
    while llm.engine.idle():
        pass
    return llm


def _run(engines: dict[str, list[LLM]], users: int, args: argparse.Namespace) -> dict[str, Kind]:
    kinds = {name: Kind(some, args.repeat) for name, some in engines.items()}
    whole, chats, texts = args.work == "edit", args.work == "chat", WORKS[args.work]
    params = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=whole)
    cores = Cores()
    every = [(kind, copy) for kind in kinds.values() for copy in range(len(kind.engines))]
    for turn in range(args.repeat):
        prompts = [texts[(user + turn) % len(texts)] for user in range(users)]
        # What an engine leaves in the processor's caches is part of what the next one takes.
        for kind, copy in random.Random(turn).sample(every, len(every)):
            llm = kind.engines[copy]
            llm.engine.scheduler.forget_prefixes()
            before = llm.engine.stats().draft_tokens
            loop = cores.settle()
            ask = llm.chat if chats else llm.generate
            begun = time.perf_counter()
            answers = ask(prompts, params, use_tqdm=False)
            seconds = time.perf_counter() - begun
            made = sum(len(answer.outputs[0].token_ids) for answer in answers)
            kind.seconds[copy, turn] = seconds * users * args.tokens / made
            kind.loops[copy, turn] = max(loop, _loop())
            kind.drafts[copy, turn] = llm.engine.stats().draft_tokens - before
    return kinds


def _compare(plain: Kind, kind: Kind, fastest: float) -> dict[str, Any]:
    """How many times as fast as plain decoding: all together, by turn, and engine by engine."""
    line: dict[str, Any] = {"turn_ms": 1000 * float(np.median(kind.seconds))}
    parts = {"first": np.s_[:, :FIRST], "later": np.s_[:, FIRST:], "all": np.s_[:, :]}
    for part, some in parts.items():
        its, other = kind.seconds[some], plain.seconds[some]
        if not its.size:
            continue
        line[part] = float(other.mean() / its.mean())
        line[f"{part}_likely"] = _likely(other.mean(0), its.mean(0))
        line[f"{part}_by_turn"] = float(np.median(other.mean(0) / its.mean(0)))
        line[f"{part}_engines"] = [round(float(ratio), 3) for ratio in other.mean() / its.mean(1)]
        quiet, calm = (one.loops[some] < QUIET * fastest for one in (kind, plain))
        if quiet.any() and calm.any():
            line[f"{part}_quiet"] = float(other[calm].mean() / its[quiet].mean())
            line[f"{part}_quiet_turns"] = int(quiet.sum())
        line[f"{part}_drafts"] = int(kind.drafts[some].sum())
    return line


def _likely(plain: Seconds, kind: Seconds) -> list[float]:
    """Between what the ratio lies with nine chances in ten, had other such turns been run, each of
    them by both [turn]."""
    picked = np.random.default_rng(0).integers(len(kind), size=(SAMPLES, len(kind)))
    ratios = plain[picked].mean(1) / kind[picked].mean(1)
    return [round(float(edge), 3) for edge in np.quantile(ratios, (0.05, 0.95))]


class Cores:
    """Those of this process, others of whose machine may use them as well."""

    def __init__(self) -> None:
        self._all = sorted(os.sched_getaffinity(0))
        self._fastest = min(_loop() for _ in range(100))

    def settle(self) -> float:
        """Stay, or move to the first core that nobody else uses, if any: the loop's seconds."""
        loop = _loop()
        for core in random.sample(self._all, len(self._all)):
            self._fastest = min(self._fastest, loop)
            if loop < QUIET * self._fastest:
                break
            os.sched_setaffinity(0, [core])
            loop = _loop()
        return loop


def _loop() -> float:
    """Seconds of a loop that needs nothing but the processor: where somebody else uses its core,
    as on a virtual machine, it takes up to twice as long, and so does all that a host does."""
    begun = time.perf_counter()
    total = 0
    for number in range(LOOP):
        total += number * number
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
