"""Results -> lines for people, a table of all figures, and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loadtest.faults.runner import Result
from loadtest.faults.scenario import Scenario, Wanted
from loadtest.processes.machine import describe_machine
from loadtest.text_table import aligned

HEADS = ("scenario", "server", "figure", "wanted", "found", "ok")


def of(result: Result) -> str:
    """One result in a line."""
    missed = f"missed: {', '.join(result.missed)}" if result.missed else "ok"
    failure = f" ({result.failure})" if result.failure else ""
    return f"{result.scenario.name}, {result.subject}, {result.seconds:.0f} s: {missed}{failure}"


def table(results: Sequence[Result]) -> str:
    """A line a figure, those that are wanted first."""
    rows = [list(HEADS)]
    for result in results:
        wanted = {each.figure: each for each in result.scenario.wanted}
        names = [*wanted, *(name for name in result.figures if name not in wanted)]
        for name in names:
            row = _row(result, name, wanted.get(name))
            if len(rows) > 1 and (rows[-1][0] or _last(rows)) == row[0] and name != names[0]:
                row[:2] = ["", ""]
            rows.append(row)
        if result.failure:
            rows.append(["", "", "did not come to its end", "", "", "NO"])
    return aligned(rows, left={0, 1, 2, 5})


def _last(rows: Sequence[Sequence[str]]) -> str:
    return next(row[0] for row in reversed(rows) if row[0])


def _row(result: Result, name: str, wanted: Wanted | None) -> list[str]:
    found = result.figures.get(name, math.nan)
    ok = "" if wanted is None else "yes" if wanted.is_met(result.figures) else "NO"
    return [result.scenario.name, str(result.subject), name, str(wanted or "-"), _shown(found), ok]


def _shown(figure: float) -> str:
    """Three digits of a small figure, a large one whole."""
    if math.isnan(figure):
        return "-"
    return f"{figure:,.0f}" if figure == round(figure) or abs(figure) >= 100 else f"{figure:.3g}"


def as_json(result: Result) -> dict[str, Any]:
    """One line for machines."""
    return {
        "scenario": result.scenario.name,
        "server": str(result.subject),
        "machine": describe_machine(),
        "quick": result.plan.is_quick,
        "seconds": round(result.seconds, 1),
        "figures": {
            name: None if math.isnan(figure) else round(float(figure), 4)
            for name, figure in result.figures.items()
        },
        "wanted": {each.figure: str(each) for each in result.scenario.wanted},
        "missed": result.missed,
        "failure": result.failure,
    }


def listing(scenarios: Sequence[Scenario]) -> str:
    """What each scenario does, and what is wanted of it."""
    lines = []
    for each in scenarios:
        lines += [f"{each.name}: {each.about}", *(f"    {want.figure} {want}" for want in each.wanted)]
    return "\n".join(lines)
