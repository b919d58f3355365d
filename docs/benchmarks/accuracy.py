"""What each way to quantize costs the embedded model, as the table of docs/quantizing.md.

    python docs/benchmarks/accuracy.py [--questions 100] [--only "awq 4 bits"] [--work DIR]

Makes a checkpoint each way, in DIR, asks it the held-out questions greedily, and scores held-out
source text. Every way answers the same questions, so that losses are compared in pairs: intervals
are 95 % bootstrap intervals of the difference. Results are kept in accuracy.jsonl beside this file;
a way that is there already is not measured again, unless --only names it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from quire import LLM
from quire.cli.evaluate import CURRICULUM, TEXTS, LocalSubject, bits_per_byte
from quire.cli.evaluate import pieces as cut
from quire.core.config import Config
from quire.core.config_file import load
from quire.core.registry import Registry, import_target
from quire.core.resolve import resolve
from quire.quant.create.job import Job
from quire.quant.create.recipe import Options

_HERE = Path(__file__).parent
_RESULTS = _HERE / "accuracy.jsonl"
_PAGE = _HERE.parent / "quantizing.md"
_BEGIN, _END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
_MODEL = "demo"
_KILOBYTES = 256
_DRAWS = 2000


class Way(NamedTuple):
    """One row.

    Attributes:
        name: of the row.
        options: None for the model as it is.
    """

    name: str
    options: dict[str, Any] | None


def _nearest(**options: Any) -> dict[str, Any]:
    return options | {"calibrated": False}


WAYS = (
    Way("bf16", None),
    Way("fp8", {"method": "fp8"}),
    Way("fp8, blocks", {"method": "fp8", "blocks": True}),
    Way("int8", {"method": "int8"}),
    Way("gptq 8 bits", {"method": "gptq", "bits": 8, "group_size": 32}),
    Way("awq 4 bits", {"method": "awq", "group_size": 32}),
    Way("nearest 4 bits, zero points", _nearest(method="awq", group_size=32)),
    Way("gptq 4 bits", {"method": "gptq", "group_size": 32}),
    Way("gptq 4 bits, desc_act", {"method": "gptq", "group_size": 32, "desc_act": True}),
    Way("nearest 4 bits", _nearest(method="gptq", group_size=32)),
    Way("awq 4 bits, groups of 128", {"method": "awq", "group_size": 128}),
    Way("nearest 4 bits, zero points, groups of 128", _nearest(method="awq", group_size=128)),
    Way("gptq 4 bits, groups of 128", {"method": "gptq", "group_size": 128}),
    Way("nearest 4 bits, groups of 128", _nearest(method="gptq", group_size=128)),
    Way("gptq 3 bits", {"method": "gptq", "bits": 3, "group_size": 32}),
    Way("nearest 3 bits", _nearest(method="gptq", bits=3, group_size=32)),
)


def main() -> None:
    """Measure what is missing, then rewrite the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=100, help="a task")
    parser.add_argument("--only", help="measure this way alone, even if done before")
    parser.add_argument("--work", type=Path, help="folder for checkpoints; a temporary one if none")
    args = parser.parse_args()
    results = _read()
    work = args.work or Path(tempfile.mkdtemp())
    for way in WAYS:
        chosen = way.name == args.only if args.only else way.name not in results
        if chosen:
            results[way.name] = _measure(way, args.questions, work)
            lines = [json.dumps(results[w.name]) for w in WAYS if w.name in results]
            _RESULTS.write_text("\n".join(lines) + "\n")
            print({k: v for k, v in results[way.name].items() if k != "right"}, flush=True)
    if args.work is None:
        shutil.rmtree(work)
    table = _table([results[way.name] for way in WAYS if way.name in results])
    print(table)
    if _PAGE.exists():
        before, _, rest = _PAGE.read_text().partition(_BEGIN)
        _PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{rest.partition(_END)[2]}")


def _read() -> dict[str, dict[str, Any]]:
    if not _RESULTS.exists():
        return {}
    lines = [json.loads(line) for line in _RESULTS.read_text().splitlines()]
    return {line["way"]: line for line in lines}


def _measure(way: Way, questions: int, work: Path) -> dict[str, Any]:
    made = {"seconds": None, "mib": None, "output_error": None}
    name = _MODEL
    if way.options is not None:
        out = work / way.name.replace(" ", "-").replace(",", "")
        shutil.rmtree(out, ignore_errors=True)
        made = _make(way.options, out)
        name = str(out)
    examples = import_target(f"{CURRICULUM}:held_out")(questions, 0)
    score = import_target(f"{CURRICULUM}:score")
    valid = import_target(f"{CURRICULUM}:valid_json")
    llm = LLM.from_config(load(None, (), {"model.name": name}))
    subject = LocalSubject(llm)
    answers = subject.answer(examples)
    right = [bool(score(e, a)) for e, a in zip(examples, answers, strict=True)]
    wanted = [valid(a) for e, a in zip(examples, answers, strict=True) if e.wants_json]
    tasks: dict[str, list[bool]] = {}
    for example, ok in zip(examples, right, strict=True):
        tasks.setdefault(example.task, []).append(ok)
    texts = cut(import_target(TEXTS)(), _KILOBYTES * 1024)
    bits = bits_per_byte(subject.log_likelihood(texts), texts)
    llm.shutdown()
    return {
        "way": way.name,
        "bits_per_byte": bits,
        "exact": statistics.mean(right),
        "valid_json": statistics.mean(wanted),
        "tasks": {task: statistics.mean(found) for task, found in tasks.items()},
        **made,
        "right": "".join("01"[ok] for ok in right),
    }


def _make(options: dict[str, Any], out: Path) -> dict[str, Any]:
    registry = Registry()
    resolved = resolve(Config(), registry)
    job = Job(
        resolved.source,
        Options(**options),
        out,
        registry=registry,
        platform=registry.get("platform", resolved.config.parallel.platform)(),
    )
    report = job.run(lambda: None)
    errors = [row.output_error for row in report.rows if row.output_error is not None]
    return {
        "seconds": round(report.seconds, 1),
        "mib": round(report.bytes_after / 2**20, 2),
        "output_error": statistics.mean(errors) if errors else None,
    }


def _table(results: list[dict[str, Any]]) -> str:
    base = next(result for result in results if result["way"] == "bf16")
    lines = [
        "| weights | MiB | bits per byte | exact match | loss in points (95 %) | valid JSON |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        size = "17.0" if result["mib"] is None else f"{result['mib']:.1f}"
        loss = "" if result is base else _loss(base["right"], result["right"])
        lines.append(
            f"| {result['way']} | {size} | {result['bits_per_byte']:.3f} | "
            f"{result['exact']:.1%} | {loss} | {result['valid_json']:.1%} |"
        )
    tasks = list(base["tasks"])
    lines += ["", "| exact match | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for result in results:
        shares = " | ".join(f"{result['tasks'][task]:.0%}" for task in tasks)
        lines.append(f"| {result['way']} | {shares} |")
    return "\n".join(lines)


def _loss(base: str, other: str) -> str:
    """Points of exact match lost, with the interval that resampling the questions gives."""
    differences = [int(a) - int(b) for a, b in zip(base, other, strict=True)]
    rng = random.Random(0)
    count = len(differences)
    drawn = sorted(sum(rng.choices(differences, k=count)) / count for _ in range(_DRAWS))
    low, high = drawn[int(0.025 * _DRAWS)], drawn[int(0.975 * _DRAWS)]
    mean = statistics.mean(differences)
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
