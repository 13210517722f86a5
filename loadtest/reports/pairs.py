"""Two servers under the same load: a table of both, and how many times better the first one is."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.load.closed_loop import Case, Key, Point
from loadtest.text_table import aligned, or_dash

FIGURES = ("req/s", "p50 ms", "p99 ms", "cpu us")


def table(points: Mapping[Key, Point], first: str, second: str) -> str:
    """A line a case: four columns a server, and how many times better `first` is."""
    servers = (first, second)
    rows = [["candidates", "connections", *(f"{name} {figure}" for name in servers for figure in FIGURES)]]
    rows[0] += ["x req/s", "x cpu"]
    for case in dict.fromkeys(case for _, case in points):
        cells = [str(case.candidates), str(case.connections)]
        for name in servers:
            point = points[name, case]
            cells += [f"{point.requests_a_second:.0f}", f"{point.p50_ms:.2f}", f"{point.p99_ms:.2f}"]
            cells.append(or_dash(point.cpu_us, digits=0))
        rows.append([*cells, *(or_dash(figure, digits=1) for figure in ratios(points, case, *servers))])
    return aligned(rows)


def ratios(points: Mapping[Key, Point], case: Case, first: str, second: str) -> tuple[float, float | None]:
    """How many times the requests a second of `second` that `first` answers, and for how much less cpu."""
    ours, theirs = points[first, case], points[second, case]
    cpu = theirs.cpu_us / ours.cpu_us if ours.cpu_us and theirs.cpu_us else None
    return ours.requests_a_second / theirs.requests_a_second, cpu
