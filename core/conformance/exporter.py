"""Exporters: never fail, never disturb each other, and show what they were told."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from ..config import Config
from ..contracts.exporter import Exporter, Rejection
from ..metrics import CompletionRecord, EngineStats, RequestRecord
from ..step import FinishReason
from .report import require

__all__ = ("check_exporter",)


def check_exporter(factory: Callable[[Config], Exporter]) -> None:
    """Check an exporter.

    Args:
        factory: makes one for a configuration.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    exporter, other = factory(Config()), factory(Config())
    empty = _lines(exporter)
    exporter.healthy(True)
    exporter.engine(EngineStats())
    for step in (1, 2, 10**9):
        exporter.engine(
            EngineStats(step, 3, 2, 5, 9, 100 * step, 40 * step, step, step_tokens=2**31)
        )
    for reason in get_args(FinishReason):
        for count in (0, 1, 300):
            exporter.request(_record(reason, count))
    for rejection in get_args(Rejection):
        exporter.rejected(rejection)
    full = _lines(exporter)
    news = full - empty
    require(bool(news), "what the engine and requests told does not show in render")
    exporter.healthy(False)
    require(_lines(exporter) != full, "an engine that died does not show in render")
    # Some lines may tell of the process, and change or agree whoever is asked.
    require(not news <= _lines(other), "two exporters in one process share their numbers")


def _lines(exporter: Exporter) -> set[bytes]:
    answer = exporter.render()
    require(isinstance(answer, tuple) and len(answer) == 2, "render must give (bytes, type)")
    body, kind = answer
    require(isinstance(body, bytes), f"render gave {type(body).__name__} where bytes belong")
    require(isinstance(kind, str) and "/" in kind, f"render named the content type {kind!r}")
    return set(body.splitlines())


def _record(reason: FinishReason, count: int) -> RequestRecord:
    completion = CompletionRecord(
        finish_reason=reason,
        num_generated=count,
        queued=0.0,
        first_token=2.0 if count else None,
        finished=2.0,
        token_gaps=[0.0] * max(0, count - 1),
    )
    return RequestRecord(
        request_id="r",
        num_prompt=7,
        num_cached=0,
        max_tokens=300,
        arrival=1.0,
        completions=[completion] * (1 + count % 2),
    )
