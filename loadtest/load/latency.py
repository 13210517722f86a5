"""Latencies -> percentiles, a table and missed SLOs; it knows neither HTTP nor Locust.

Locust's own statistics round to whole milliseconds, several times the latency of an answer here. Standard
library only, so that it runs in Locust's own image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.text_table import aligned

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
ALL = "all"
# Buckets grow by 1 %, so a percentile is off by at most half of that; the first one ends at a microsecond.
_GROWTH = math.log(1.01)
_SMALLEST_MS = 0.001


@dataclass
class Latencies:
    """A histogram of latencies in milliseconds; errors count apart, since quick refusals would improve it.

    It keeps counts and no samples: memory stays bounded over hours, and histograms of processes add up.
    """

    buckets: Counter[int] = field(default_factory=Counter)
    errors: int = 0
    largest_ms: float = 0.0

    def add(self, milliseconds: float) -> None:
        self.buckets[
            max(0, math.ceil(math.log(max(milliseconds, _SMALLEST_MS) / _SMALLEST_MS) / _GROWTH))
        ] += 1
        self.largest_ms = max(self.largest_ms, milliseconds)

    def merge(self, other: Latencies) -> None:
        self.buckets.update(other.buckets)
        self.errors += other.errors
        self.largest_ms = max(self.largest_ms, other.largest_ms)

    @property
    def answered(self) -> int:
        return self.buckets.total()

    @property
    def requests(self) -> int:
        return self.answered + self.errors

    def percentile(self, percent: float) -> float:
        """The latency in milliseconds that `percent` of the answers do not exceed; nan without answers."""
        rank, passed = max(1, math.ceil(self.answered * percent / 100.0)), 0
        for bucket in sorted(self.buckets):
            passed += self.buckets[bucket]
            if passed >= rank:
                return min(_SMALLEST_MS * math.exp((bucket - 0.5) * _GROWTH), self.largest_ms)
        return math.nan


@dataclass(frozen=True)
class Slo:
    """Limits: p99 in ms of each size of request, share of errors, answers a second; None is no limit."""

    p99_ms: float | None = None
    error_rate: float | None = None
    rps: float | None = None

    @property
    def given(self) -> bool:
        return self != Slo()

    def missed(self, by_size: Mapping[str, Latencies], seconds: float) -> list[str]:
        """A line for each limit that was missed."""
        total = together(by_size)
        if total.answered == 0:
            return [f"no request was answered ({total.errors} failed)"]
        lines = []
        if self.p99_ms is not None:
            for name, latencies in by_size.items():
                p99 = latencies.percentile(99.0)
                if latencies.answered and p99 > self.p99_ms:
                    lines.append(f"p99 of {name} is {p99:.2f} ms, more than {self.p99_ms:g} ms")
        if self.error_rate is not None and total.errors / total.requests > self.error_rate:
            lines.append(
                f"the error rate is {total.errors / total.requests:.5f} "
                f"({total.errors} of {total.requests}), more than {self.error_rate:g}"
            )
        if self.rps is not None and total.answered / seconds < self.rps:
            lines.append(f"{total.answered / seconds:.1f} answers a second, fewer than {self.rps:g}")
        return lines


def together(by_size: Mapping[str, Latencies]) -> Latencies:
    """All sizes as one histogram."""
    total = Latencies()
    for latencies in by_size.values():
        total.merge(latencies)
    return total


def summary(by_size: Mapping[str, Latencies], seconds: float) -> dict[str, dict[str, float | None]]:
    """Figures of each size and of all: {"1 candidate": {"answers": 9, ..., "p99_ms": 1.2}, ...}."""
    figures: dict[str, dict[str, float | None]] = {}
    for name, latencies in [*by_size.items(), (ALL, together(by_size))]:
        percentiles = {
            f"p{percent:g}_ms": round(latencies.percentile(percent), 3) if latencies.answered else None
            for percent in PERCENTILES
        }
        figures[name] = {
            "answers": latencies.answered,
            "errors": latencies.errors,
            "per_second": round(latencies.answered / seconds, 1),
            **percentiles,
            "max_ms": round(latencies.largest_ms, 3),
        }
    return figures


def format_summary(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """The same as a table: a line a size of request and one for all, a column a figure."""
    columns = list(next(iter(figures.values())))
    rows = [["", *(column.replace("_", " ") for column in columns)]]
    for name, row in figures.items():
        rows.append([name, *("-" if value is None else str(value) for value in row.values())])
    return aligned(rows, left={0})
