"""Points of `make catalogue` -> candidates a second, what the catalogue gains and what a refresh costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.load.closed_loop import Case, Key, Point
from loadtest.text_table import aligned, or_dash
from loadtest.traffic.body_forms import Form

# Where the features of candidates come from: the request, the catalogue, a catalogue under refresh.
SENT, KNOWN, REFRESHED = "sent", "by id", "by id, refreshed"
# What each is compared with in the same form, if both were measured in turns.
AGAINST = {KNOWN: SENT, REFRESHED: KNOWN}
HEADS = (
    *("candidates", "connections", "features", "form", "candidates/s", "p50 ms", "p99 ms", "cpu us each"),
    *("compared with", "x candidates/s", "x p99", "x cpu"),
)


@dataclass(frozen=True)
class Way:
    """A kind of request: where the features come from, and the form of the body."""

    ads: str
    form: Form

    def __str__(self) -> str:
        return f"{self.ads}; {self.form}"


@dataclass(frozen=True)
class Ratios:
    """A point over another's: above 1 is more candidates a second, is slower, is more processor time."""

    of: str
    candidates: float
    p99: float
    cpu: float | None


@dataclass(frozen=True)
class Line:
    """A way in a case: candidates a second, and microseconds of the service's processor time a candidate."""

    way: Way
    case: Case
    point: Point
    ratios: Ratios | None

    @property
    def candidates_a_second(self) -> float:
        return self.point.requests_a_second * self.case.candidates

    @property
    def cpu_us(self) -> float | None:
        return None if self.point.cpu_us is None else self.point.cpu_us / self.case.candidates


def lines_of(ways: Sequence[Way], points: Mapping[Key, Point]) -> Iterator[Line]:
    """Every way in every case, case by case."""
    for case in dict.fromkeys(case for _, case in points):
        for way in ways:
            point, ratios = points[str(way), case], None
            of = AGAINST.get(way.ads, "")
            other = points.get((str(Way(of, way.form)), case))
            if other is not None:
                ratios = _ratios(of, point, other)
            yield Line(way, case, point, ratios)


def _ratios(of: str, point: Point, other: Point) -> Ratios:
    return Ratios(
        of,
        point.requests_a_second / other.requests_a_second,
        point.p99_ms / other.p99_ms,
        point.cpu_us / other.cpu_us if point.cpu_us and other.cpu_us else None,
    )


def table(ways: Sequence[Way], points: Mapping[Key, Point]) -> str:
    """A line a way, case by case."""
    rows = [list(HEADS)]
    for line in lines_of(ways, points):
        ratios = line.ratios
        rows.append(
            [
                str(line.case.candidates),
                str(line.case.connections),
                line.way.ads,
                str(line.way.form),
                f"{line.candidates_a_second:,.0f}",
                f"{line.point.p50_ms:.2f}",
                f"{line.point.p99_ms:.2f}",
                or_dash(line.cpu_us),
                *(("", "", "", "") if ratios is None else _cells(ratios)),
            ]
        )
    return aligned(rows, left={2, 3, 8})


def _cells(ratios: Ratios) -> tuple[str, ...]:
    return ratios.of, f"{ratios.candidates:.2f}", f"{ratios.p99:.2f}", or_dash(ratios.cpu)


def as_json(ways: Sequence[Way], points: Mapping[Key, Point]) -> list[dict[str, Any]]:
    """All lines for the report."""
    return [_line_as_json(line) for line in lines_of(ways, points)]


def _line_as_json(line: Line) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "features": line.way.ads,
        "form": str(line.way.form),
        "candidates": line.case.candidates,
        "connections": line.case.connections,
        "candidates_per_second": round(line.candidates_a_second),
        "p50_ms": round(line.point.p50_ms, 3),
        "p99_ms": round(line.point.p99_ms, 3),
        "cpu_us_per_candidate": None if line.cpu_us is None else round(line.cpu_us, 3),
    }
    if line.ratios is not None:
        figures["over"] = line.ratios.of
        figures["candidates_ratio"] = round(line.ratios.candidates, 3)
        figures["p99_ratio"] = round(line.ratios.p99, 3)
        figures["cpu_ratio"] = None if line.ratios.cpu is None else round(line.ratios.cpu, 3)
    return figures
