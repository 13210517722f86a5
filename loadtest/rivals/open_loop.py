"""Latency over throughput: an open loop sends each contender shares of its own peak; HTTP only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.load.closed_loop import MeasurementError
from loadtest.load.open_client import OpenLoad, send
from loadtest.processes.server import Server
from loadtest.rivals.figures import Best, Entry
from loadtest.rivals.plan import Plan
from loadtest.rivals.runner import Measured, Tell
from loadtest.text_table import aligned

CONNECTIONS = 256
HEADS = (
    "candidates contender %_of_peak asked/s answered/s p50_ms p99_ms p99.9_ms errors unanswered lag_p99_ms"
)


@dataclass(frozen=True)
class Peak:
    """The most that a contender answered at a size of request, and the setting that did it."""

    entry: Entry
    candidates: int
    requests_a_second: float


@dataclass(frozen=True)
class Share:
    """The result of a share of a peak: medians of the rounds; `figures` as the client prints them."""

    peak: Peak
    percent: int
    figures: Mapping[str, float]

    @property
    def limited_by_client(self) -> bool:
        return bool(self.figures["limited_by_client"])


def peaks(best: Iterable[Best]) -> list[Peak]:
    """The peak of each contender at each size of request."""
    found: dict[tuple[int, str], Peak] = {}
    for each in best:
        key, rate = (each.case.candidates, each.entry.contender), each.point.requests_a_second
        if key not in found or rate > found[key].requests_a_second:
            found[key] = Peak(each.entry, each.case.candidates, rate)
    return list(found.values())


def measure_open(
    plan: Plan,
    servers: Mapping[Entry, Server],
    files: Mapping[int, Path],
    best: Iterable[Best],
    measured: Measured,
    tell: Tell,
) -> list[Share]:
    """All shares of all peaks, contenders in turns, each paused while others are measured."""
    runs: dict[tuple[Peak, int], list[dict[str, float]]] = {}
    failed: set[tuple[Peak, int]] = set()
    for number in range(plan.rounds):
        for percent in plan.open_loop:
            for peak in peaks(best):
                key, server = (peak, percent), servers[peak.entry]
                if key in failed:
                    continue
                server.resume()
                try:
                    rate = peak.requests_a_second * percent / 100.0
                    load = OpenLoad(rate, plan.seconds_a_round, CONNECTIONS, seed=number)
                    found = send(load, server, files[peak.candidates], plan.client_core)
                    runs.setdefault(key, []).append(found)
                except MeasurementError as error:
                    failed.add(key)
                    measured.leave_out(str(peak.entry), f"open loop at {percent} % of peak: {error}")
                finally:
                    server.pause()
            tell(f"open loop, round {number + 1} of {plan.rounds}: {percent} % of peak")
    return [
        Share(*key, {name: median(run[name] for run in several) for name in several[0]})
        for key, several in runs.items()
        if key not in failed
    ]


def table(shares: Sequence[Share]) -> str:
    """A line a share; `*` where the client was the limit."""
    rows = [[head.replace("_", " ") for head in HEADS.split()]]
    for share in sorted(shares, key=lambda share: (share.peak.candidates, share.percent)):
        figures = share.figures
        rows.append(
            [
                str(share.peak.candidates),
                share.peak.entry.contender,
                str(share.percent),
                f"{figures['asked_a_second']:,.0f}",
                f"{figures['answered_a_second']:,.0f}",
                *(f"{figures[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms")),
                f"{figures['errors']:.0f}",
                f"{figures['unanswered']:.0f}",
                f"{figures['lag_p99_ms']:.2f}{'*' if share.limited_by_client else ''}",
            ]
        )
    return aligned(rows, left={1})


def as_json(share: Share) -> dict[str, Any]:
    """One share of the report."""
    return {
        "contender": share.peak.entry.contender,
        "setting": share.peak.entry.setting,
        "candidates": share.peak.candidates,
        "percent_of_peak": share.percent,
        **{name: round(figure, 3) for name, figure in share.figures.items() if name != "limited_by_client"},
        "limited_by_client": share.limited_by_client,
    }
