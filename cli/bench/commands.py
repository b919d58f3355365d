"""``quire bench offline`` and ``quire bench serve``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ...core.config import Config
from ...core.errors import ConfigError, QuireError
from ...core.registry import Registry
from ..console import output, print_phase, progress, status
from ..options import with_config
from ..remote import Remote
from . import machine, online, report, workloads
from .report import Sample, Settings
from .workloads import Workload

__all__ = ("app",)

app = typer.Typer(help="Measure: in process, or a server.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--workload", help=f"One of {', '.join(workloads.NAMES)}.")]
Goals = Annotated[
    list[str] | None, typer.Option("--goodput", help="Goal in ms such as ttft:200; repeatable.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder for the JSON file and the plot.")]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Requests at once; all when left out.")
]
Warmup = Annotated[int, typer.Option(min=0, help="Requests sent before and not counted.")]


@app.command("offline")
@with_config()
def offline(
    config: Config,
    workload: Name = "mixed-64",
    concurrency: Concurrency = None,
    warmup: Warmup = 2,
    goodput: Goals = None,
    output_folder: Output = Path("bench-results"),
) -> None:
    """Run a workload through the engine in this process."""
    workloads.check_name(workload)
    goals = report.parse_goals(goodput or ())
    _make(output_folder)
    from ...core.engine import Engine
    from .offline import drive

    engine = Engine.start(config, Registry(config.plugins.load), print_phase)
    longest = engine.info.config.model.max_model_len or 2048
    vocab_size = engine.info.vocab_size
    work = workloads.make(workload, vocab_size=vocab_size, max_model_len=longest)
    if warmup:
        drive(engine, _warmup(warmup, vocab_size, longest))
    with progress(workload, len(work.prompts)) as advance:
        begin = time.perf_counter()
        samples = drive(engine, work, concurrency, advance)
        seconds = time.perf_counter() - begin
    engine.shutdown()
    settings = Settings(
        mode="offline",
        model=config.model.name,
        workload=workload,
        note=work.note,
        machine=machine.describe(),
        concurrency=concurrency,
    )
    _publish(output_folder, settings, samples, seconds, goals)


@app.command("serve")
def serve(
    url: Annotated[str, typer.Option("--url", help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None, typer.Option("--model", help="Its name there; the server's first if left out.")
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Sent to the server.")] = None,
    workload: Name = "mixed-64",
    vocab_size: Annotated[int, typer.Option(min=8, help="Token ids stay below it.")] = 1024,
    max_model_len: Annotated[
        int | None, typer.Option(min=2, help="Longest sequence; as the server says if left out.")
    ] = None,
    concurrency: Concurrency = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Arrivals a second (Poisson); all at once if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    warmup: Warmup = 2,
    goodput: Goals = None,
    output_folder: Output = Path("bench-results"),
) -> None:
    """Run a workload against an OpenAI-compatible server."""
    workloads.check_name(workload)
    goals = report.parse_goals(goodput or ())
    _make(output_folder)
    remote = Remote(url, api_key)

    async def measure() -> tuple[str, Workload, list[Sample], float, list[float]]:
        name, longest = await _served(remote, model, max_model_len)
        work = workloads.make(workload, vocab_size=vocab_size, max_model_len=longest)
        if warmup:
            await online.load(remote, name, _warmup(warmup, vocab_size, longest))
        with progress(workload, len(work.prompts)) as advance:
            begin = time.perf_counter()
            async with online.lag() as lags:
                samples = await online.load(
                    remote,
                    name,
                    work,
                    concurrency=concurrency,
                    rate=rate,
                    seed=seed,
                    on_done=advance,
                )
            return name, work, samples, time.perf_counter() - begin, lags

    name, work, samples, seconds, lags = asyncio.run(measure())
    settings = Settings(
        mode=url,
        model=name,
        workload=workload,
        note=work.note,
        machine=machine.describe(),
        concurrency=concurrency,
        rate=rate,
    )
    _publish(output_folder, settings, samples, seconds, goals, lags)


async def _served(remote: Remote, model: str | None, longest: int | None) -> tuple[str, int]:
    """The model's name on the server, and how long its sequences may be."""
    if model is not None and longest is not None:
        return model, longest
    models = await remote.models()
    name = model or next(iter(models))
    if name not in models:
        raise QuireError(f"the server has no model {name!r}; it has {', '.join(models)}")
    return name, longest or models[name].get("max_model_len") or 2048


def _warmup(count: int, vocab_size: int, longest: int) -> Workload:
    """Short requests whose ids differ from every measured workload's."""
    work = workloads.make("smoke-4", vocab_size=vocab_size, max_model_len=longest, seed=count + 1)
    prompts = [work.prompts[index % len(work.prompts)] for index in range(count)]
    outputs = [work.outputs[index % len(work.outputs)] for index in range(count)]
    return Workload("warmup", prompts, outputs)


def _make(folder: Path) -> None:
    """The results' folder, before anything is measured for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be made ({error.strerror})") from error


def _publish(
    folder: Path,
    settings: Settings,
    samples: Sequence[Sample],
    seconds: float,
    goals: dict[str, float],
    lags: Sequence[float] = (),
) -> None:
    """Print the table, save the JSON file and the plot."""
    result = report.summarize(samples, seconds, goals, lags)
    output().print(report.table(result, settings))
    stem = f"{settings.workload}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = folder / f"{stem}.json"
    report.save(path, result, settings, samples)
    console = status()
    console.print(f"saved {path}", highlight=False)
    picture = path.with_suffix(".png")
    title = f"{settings.workload} on {settings.model}, {settings.mode}"
    if report.plot(picture, samples, title):
        console.print(f"saved {picture}", highlight=False)
    else:
        console.print("no plot: `pip install quire\\[bench]` brings matplotlib", highlight=False)
    if result.failed:
        raise QuireError(f"{result.failed} requests failed; the first: {result.first_error}")
