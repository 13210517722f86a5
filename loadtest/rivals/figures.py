"""Points of every setting -> the best setting of each contender, ratios, tables and JSON; it runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.load.closed_loop import Case, Point
from loadtest.text_table import aligned, or_dash

OURS, PLAIN = "bidlight", "bidlight_plain"
# No rivals: the naive services, Bidlight without one of its parts, and a rival that has one of them.
BASELINES = ("naive", "naive_async", "bidlight_asgi", PLAIN, "bidlight_unmetered", "mosec_native")
BEST_RIVAL, PLAIN_OVER = "best_rival", f"{PLAIN}_over_best_rival"
HEADS = "candidates connections contender req/s p50_ms p99_ms p99.9_ms errors cpu_us MB setting"

SAME_GRAPH = (
    f"{OURS} runs large requests through a graph that computes their context once, where the bundle has one; "
    f"rivals run the plain graph, as {PLAIN} does"
)


@dataclass(frozen=True)
class Entry:
    """A contender's program with one of its settings: what is started and measured."""

    contender: str
    setting: str

    def __str__(self) -> str:
        return f"{self.contender} ({self.setting})" if self.setting else self.contender


@dataclass(frozen=True)
class Best:
    """A contender in a case, with the setting that answered most requests a second there."""

    entry: Entry
    case: Case
    point: Point


@dataclass(frozen=True)
class Ratio:
    """One server's requests a second over another's, and its p99: above 1 is more requests, and is slower."""

    case: Case
    of: Best
    requests: float
    p99: float


def best_of(points: Mapping[tuple[Entry, Case], Point]) -> list[Best]:
    """One for each contender and case, in the order of `points`; a setting without errors beats one with."""
    found: dict[tuple[str, Case], Best] = {}
    for (entry, case), point in points.items():
        key, candidate = (entry.contender, case), Best(entry, case, point)
        if key not in found or _rank(candidate) > _rank(found[key]):
            found[key] = candidate
    return list(found.values())


def _rank(best: Best) -> tuple[bool, float]:
    return best.point.errors == 0, best.point.requests_a_second


def ratios(best: Iterable[Best]) -> dict[str, list[Ratio]]:
    """By name, in each case: ours over the best rival and over each baseline, and PLAIN over the best rival.

    Bidlight scores large requests with a graph that computes their context once. Rivals and PLAIN do not.
    """
    cases: dict[Case, dict[str, Best]] = {}
    for each in best:
        cases.setdefault(each.case, {})[each.entry.contender] = each
    found: dict[str, list[Ratio]] = {}
    for there in cases.values():
        if OURS not in there:
            continue
        rivals = [each for name, each in there.items() if name not in (OURS, *BASELINES)]
        if rivals:
            best_rival = max(rivals, key=_rank)
            found.setdefault(BEST_RIVAL, []).append(_ratio(there[OURS], best_rival))
            if PLAIN in there:
                found.setdefault(PLAIN_OVER, []).append(_ratio(there[PLAIN], best_rival))
        for name in BASELINES:
            if name in there:
                found.setdefault(name, []).append(_ratio(there[OURS], there[name]))
    return {name: found[name] for name in (BEST_RIVAL, PLAIN_OVER, *BASELINES) if name in found}


def _ratio(ours: Best, other: Best) -> Ratio:
    requests = ours.point.requests_a_second / other.point.requests_a_second
    return Ratio(ours.case, other, requests, ours.point.p99_ms / other.point.p99_ms)


def table(best: Iterable[Best]) -> str:
    """A line a contender, by case."""
    rows = [[head.replace("_", " ") for head in HEADS.split()]]
    for each in sorted(best, key=lambda each: (each.case.candidates, each.case.connections)):
        point = each.point
        rows.append(
            [
                str(each.case.candidates),
                str(each.case.connections),
                each.entry.contender,
                f"{point.requests_a_second:,.0f}",
                f"{point.p50_ms:.2f}",
                f"{point.p99_ms:.2f}",
                f"{point.p999_ms:.2f}",
                str(point.errors),
                or_dash(point.cpu_us, digits=0),
                or_dash(point.memory_mb, digits=0),
                each.entry.setting,
            ]
        )
    return aligned(rows, left={2, len(rows[0]) - 1})


def ratio_table(found: Mapping[str, list[Ratio]]) -> str:
    """A line a case: requests a second (and p99) over the best rival's, and over the naive ones'."""
    names = list(found)
    lines = [["candidates", "connections", *(name.replace("_", " ") for name in names)]]
    by_case: dict[Case, dict[str, Ratio]] = {}
    for name, several in found.items():
        for ratio in several:
            by_case.setdefault(ratio.case, {})[name] = ratio
    for case, there in by_case.items():
        cells = [str(case.candidates), str(case.connections)]
        cells += [_ratio_cell(name, there.get(name)) for name in names]
        lines.append(cells)
    return aligned(lines)


def _ratio_cell(name: str, ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    whose = f" {ratio.of.entry.contender}" if name in (BEST_RIVAL, PLAIN_OVER) else ""
    return f"{ratio.requests:.2f} (p99 {ratio.p99:.2f}){whose}"


def as_json(best: Best) -> dict[str, Any]:
    """One point of the report."""
    point = best.point
    return {
        "contender": best.entry.contender,
        "candidates": best.case.candidates,
        "connections": best.case.connections,
        "requests_per_second": round(point.requests_a_second, 1),
        "p50_ms": round(point.p50_ms, 3),
        "p99_ms": round(point.p99_ms, 3),
        "p999_ms": round(point.p999_ms, 3),
        "errors": point.errors,
        "cpu_us_per_request": None if point.cpu_us is None else round(point.cpu_us, 1),
        "rss_mb": None if point.memory_mb is None else round(point.memory_mb, 1),
        "setting": best.entry.setting,
    }


def ratio_as_json(name: str, ratio: Ratio) -> dict[str, Any]:
    """One ratio of the report."""
    return {
        "contender": PLAIN if name == PLAIN_OVER else OURS,
        "over": ratio.of.entry.contender,
        "as": name,
        "candidates": ratio.case.candidates,
        "connections": ratio.case.connections,
        "requests_per_second": round(ratio.requests, 3),
        "p99": round(ratio.p99, 3),
    }
