"""Histograms as plain counts, cheap to fill with many values at once."""

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client.core import HistogramMetricFamily

__all__ = ("E2E", "GAPS", "TTFT", "Histogram", "token_bounds")

TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
GAPS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
E2E = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


def token_bounds(most: int) -> tuple[float, ...]:
    """The series 1, 2, 5, 10, 20, 50 ... up to ``most``."""
    series = (float(step * 10**power) for power in range(10) for step in (1, 2, 5))
    return tuple(bound for bound in series if bound <= most)


class Histogram:
    """Counts by upper bound.

    Args:
        bounds: upper bounds, ascending; infinity is added.
    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_all(self, values: Iterable[float]) -> None:
        """Count many values."""
        for value in values:
            self.add(value)

    def family(self, name: str, words: str, labels: dict[str, str]) -> HistogramMetricFamily:
        """What a scrape sees, under that name."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family = HistogramMetricFamily(name, words, labels=list(labels))
        family.add_metric(list(labels.values()), buckets, self._sum)
        return family
