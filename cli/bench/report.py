"""From times of arrival to a table, a JSON file and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from ...core.errors import ConfigError

__all__ = (
    "METRICS",
    "Distribution",
    "Report",
    "Sample",
    "Settings",
    "parse_goals",
    "percentile",
    "plot",
    "save",
    "summarize",
    "table",
)

METRICS = ("ttft", "tpot", "itl", "e2e")


class Sample(msgspec.Struct):
    """One request as its caller saw it; seconds on one clock.

    Attributes:
        start: when it was sent.
        num_prompt: prompt tokens.
        wanted: tokens asked for.
        arrivals: when each piece of output came.
        counts: tokens in each piece.
        error: why it failed; None when it did not.
    """

    start: float
    num_prompt: int
    wanted: int
    arrivals: list[float] = []
    counts: list[int] = []
    error: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(self.counts)

    def milliseconds(self, metric: str) -> list[float]:
        """The request's own values of ``ttft``, ``tpot``, ``itl`` or ``e2e``.

        TPOT is the time after the first piece over the tokens after it; ITL the gaps between
        pieces.
        """
        if not self.arrivals:
            return []
        first, last = self.arrivals[0], self.arrivals[-1]
        if metric == "ttft":
            return [(first - self.start) * 1e3]
        if metric == "e2e":
            return [(last - self.start) * 1e3]
        if metric == "tpot":
            later = self.tokens - self.counts[0]
            return [(last - first) * 1e3 / later] if later else []
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [(after - before) * 1e3 for before, after in pairs]


class Distribution(msgspec.Struct, frozen=True):
    """Milliseconds."""

    mean: float
    p50: float
    p99: float


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and where.

    Attributes:
        mode: ``offline``, or the server's URL.
        model: its name.
        workload: the recipe's name.
        note: how the workload differs from the recipe.
        machine: processor, devices and versions.
        concurrency: requests at once; None for all.
        rate: arrivals a second (Poisson); None for all at the start.
    """

    mode: str
    model: str
    workload: str
    note: str
    machine: dict[str, str]
    concurrency: int | None = None
    rate: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers.

    Attributes:
        seconds: from the first request to the last token.
        requests: that ended well.
        failed: that did not.
        short: that ended well with fewer tokens than asked for.
        first_error: of those that failed.
        prompt_tokens: of requests that ended well.
        output_tokens: likewise.
        request_rate: requests a second.
        output_rate: generated tokens a second.
        total_rate: prompt and generated tokens a second.
        latencies: metric -> distribution; a metric without any value is left out.
        goals: metric -> most milliseconds.
        goodput: requests a second that kept every goal; None without goals.
        lag: by how much the client saw things too late, milliseconds; None where it is no client.
    """

    seconds: float
    requests: int
    failed: int
    short: int
    first_error: str | None
    prompt_tokens: int
    output_tokens: int
    request_rate: float
    output_rate: float
    total_rate: float
    latencies: dict[str, Distribution]
    goals: dict[str, float]
    goodput: float | None
    lag: Distribution | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies, interpolated linearly (numpy's default)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def parse_goals(texts: Sequence[str]) -> dict[str, float]:
    """Goals such as ``ttft:200`` in milliseconds.

    Raises:
        ConfigError: for an unknown metric or no number.
    """
    goals = {}
    for text in (part for whole in texts for part in whole.split()):
        metric, _, limit = text.partition(":")
        try:
            goals[metric] = float(limit)
        except ValueError:
            goals[metric] = math.nan
        if not 0 < goals[metric] < math.inf:
            raise ConfigError(f"--goodput must be like ttft:200, not {text!r}")
        if metric not in METRICS:
            raise ConfigError(f"--goodput knows {', '.join(METRICS)}, not {metric!r}")
    return goals


def summarize(
    samples: Sequence[Sample],
    seconds: float,
    goals: dict[str, float],
    lags: Sequence[float] = (),
) -> Report:
    """The numbers of a run.

    Args:
        samples: of its requests.
        seconds: that it took.
        goals: metric -> most milliseconds.
        lags: seconds by which the client was late, sampled.
    """
    good = [sample for sample in samples if sample.error is None]
    errors = [sample.error for sample in samples if sample.error is not None]
    latencies = {}
    for metric in METRICS:
        values = [value for sample in good for value in sample.milliseconds(metric)]
        if values:
            latencies[metric] = _distribution(values)
    prompt = sum(sample.num_prompt for sample in good)
    generated = sum(sample.tokens for sample in good)
    kept = sum(_keeps(sample, goals) for sample in good)
    return Report(
        seconds=seconds,
        requests=len(good),
        failed=len(errors),
        short=sum(sample.tokens < sample.wanted for sample in good),
        first_error=errors[0] if errors else None,
        prompt_tokens=prompt,
        output_tokens=generated,
        request_rate=len(good) / seconds,
        output_rate=generated / seconds,
        total_rate=(prompt + generated) / seconds,
        latencies=latencies,
        goals=goals,
        goodput=kept / seconds if goals else None,
        lag=_distribution([1e3 * late for late in lags]) if lags else None,
    )


def _distribution(values: Sequence[float]) -> Distribution:
    mean = math.fsum(values) / len(values)
    return Distribution(mean, percentile(values, 0.5), percentile(values, 0.99))


def _keeps(sample: Sample, goals: dict[str, float]) -> bool:
    """Whether every goal holds for the request; its gaps count one by one."""
    return all(
        value <= limit for metric, limit in goals.items() for value in sample.milliseconds(metric)
    )


def table(report: Report, settings: Settings) -> Table:
    """The report for a terminal."""
    view = Table(title=f"{settings.workload} on {settings.model}, {settings.mode}")
    for column in ("", "mean", "p50", "p99"):
        view.add_column(column, justify="left" if not column else "right")
    rows = {metric.upper(): found for metric, found in report.latencies.items()}
    if report.lag is not None:
        rows["client lag"] = report.lag
    for name, found in rows.items():
        values = (found.mean, found.p50, found.p99)
        view.add_row(f"{name} ms", *(f"{value:.2f}" for value in values))
    view.add_section()
    failed = f"{report.failed} failed" if report.failed else ""
    view.add_row("requests", str(report.requests), failed, f"{report.request_rate:.2f}/s")
    view.add_row("prompt tokens", str(report.prompt_tokens), "", "")
    view.add_row("output tokens", str(report.output_tokens), "", f"{report.output_rate:.1f}/s")
    view.add_row("all tokens", "", "", f"{report.total_rate:.1f}/s")
    if report.goodput is not None:
        goals = " ".join(f"{metric}:{limit:g}" for metric, limit in report.goals.items())
        view.add_row(f"goodput {goals}", "", "", f"{report.goodput:.2f}/s")
    view.add_row("seconds", f"{report.seconds:.2f}", "", "")
    view.caption = settings.note or None
    return view


def save(path: Path, report: Report, settings: Settings, samples: Sequence[Sample]) -> None:
    """Everything as JSON, every request included."""
    origin = min((sample.start for sample in samples), default=0.0)
    whole: dict[str, Any] = {
        "settings": settings,
        "report": report,
        "samples": [
            {
                "start": sample.start - origin,
                "num_prompt": sample.num_prompt,
                "wanted": sample.wanted,
                "arrivals": [arrival - origin for arrival in sample.arrivals],
                "counts": sample.counts,
                "error": sample.error,
            }
            for sample in samples
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1))


def plot(path: Path, samples: Sequence[Sample], title: str) -> bool:
    """Latency distributions and tokens over time as PNG; False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 2).flat
    for metric, axis in zip(("ttft", "itl", "e2e"), axes, strict=False):
        values = sorted(value for sample in samples for value in sample.milliseconds(metric))
        shares = [(index + 1) / len(values) for index in range(len(values))]
        axis.plot(values, shares)
        axis.set(xlabel=f"{metric.upper()} in ms", ylabel="share of values", ylim=(0, 1))
        axis.grid(alpha=0.3)
    origin = min((sample.start for sample in samples), default=0.0)
    pairs = sorted(
        (arrival - origin, count)
        for sample in samples
        for arrival, count in zip(sample.arrivals, sample.counts, strict=True)
    )
    total, running = [], 0
    for _, count in pairs:
        running += count
        total.append(running)
    axis = figure.axes[3]
    axis.plot([at for at, _ in pairs], total)
    axis.set(xlabel="seconds", ylabel="tokens generated")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True
