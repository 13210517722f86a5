"""Writes the tables in docs/faults.md from what `make faults` measured: `python -m docs.faults_tables`.

`docs/measured/` has the lines of JSON of each run: `faults.before.jsonl` and `faults.after.jsonl` are of
Bidlight, `faults.rivals.jsonl` of it beside others. A test fails when the page and the files differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.faults.catalogue import SCENARIOS
from loadtest.faults.ground import Subject

PAGE = Path(__file__).with_name("faults.md")
MEASURED = PAGE.with_name("measured")
_MARKED = re.compile(r"(<!-- faults: (\w+) -->\n)(.*?)(\n<!-- /faults -->)", re.DOTALL)
OURS = str(Subject())
_OVERLOAD = re.compile(r"(\d+x): (.*)")
# Of an overload, by the head of their column.
COLUMNS = {
    "goodput / peak": "goodput / peak",
    "p99 ms": "p99 ms",
    "within tmax": "share within tmax",
    "CPU us a refusal": "CPU us a refusal",
    "answers a CPU s / peak": "answers a CPU second / peak",
    "p99 afterwards / before": "p99 a second after / before",
    "sent of asked": "sent/s",
}

Run = dict[tuple[str, str], dict[str, Any]]


def read(name: str) -> Run:
    """The results of a run by scenario and server; none where it was not measured."""
    file = MEASURED / f"faults.{name}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    results = [json.loads(line) for line in lines]
    return {(each["scenario"], each["server"]): each for each in results}


def of_scenarios() -> str:
    """A row a scenario: what it does, and what was missed before and after; overload has its own table."""
    before, after = read("before"), read("after")
    rows = [["scenario", "what is done", "before", "after"]]
    for name, scenario in SCENARIOS.items():
        if not _multiples(before.get((name, OURS))):
            found = (_missed(run.get((name, OURS))) for run in (before, after))
            rows.append([f"`{name}`", scenario.about, *found])
    return _markdown(rows)


def of_overload() -> str:
    """A row a scenario of overload, multiple of the peak, and run."""
    rows = [["scenario", "load", "run", *COLUMNS]]
    for (name, server), before in read("before").items():
        after = read("after").get((name, server))
        for multiple in _multiples(before):
            for run, result in (("before", before), ("after", after)):
                rows.append([f"`{name}`", multiple, run, *_overload_cells(result, multiple)])
    return _markdown(rows)


def of_rivals() -> str:
    """A row a scenario that fits any server: what each missed, and in an overload its goodput and p99."""
    results = read("rivals")
    servers = list(dict.fromkeys(server for _, server in results))
    rows = [
        [f"`{name}`", *(_beside(results.get((name, server))) for server in servers)]
        for name in dict.fromkeys(name for name, _ in results)
    ]
    return _markdown([["scenario", *servers], *rows])


TABLES: dict[str, Callable[[], str]] = {
    "scenarios": of_scenarios,
    "overload": of_overload,
    "rivals": of_rivals,
}


def written(text: str) -> str:
    """The page with its tables as they are measured."""
    return _MARKED.sub(lambda marked: marked[1] + TABLES[marked[2]]() + marked[4], text)


def _missed(result: dict[str, Any] | None) -> str:
    """`holds`, or each missed figure with what was found and wanted."""
    if result is None:
        return "-"
    if result["failure"]:
        return f"**did not end**: {result['failure'].partition(':')[0]}"
    cells = [
        f"{figure} **{_shown(result['figures'].get(figure))}**, not {result['wanted'][figure]}"
        for figure in result["missed"]
    ]
    return "; ".join(cells) or "holds"


def _beside(result: dict[str, Any] | None) -> str:
    multiples = _multiples(result)
    if result is None or not multiples:
        return _missed(result)
    parts = []
    for multiple in multiples:
        goodput, p99 = (_of(result, multiple, figure) for figure in ("goodput / peak", "p99 ms"))
        parts.append(f"{multiple}: {_shown(goodput)} of peak, p99 {_shown(p99)} ms")
    return f"{'; '.join(parts)} (peak {_shown(result['figures'].get('peak/s'))}/s)"


def _multiples(result: dict[str, Any] | None) -> list[str]:
    figures = () if result is None else result["figures"]
    return list(dict.fromkeys(found[1] for name in figures if (found := _OVERLOAD.fullmatch(name))))


def _overload_cells(result: dict[str, Any] | None, multiple: str) -> list[str]:
    if result is None:
        return ["-"] * len(COLUMNS)
    cells = []
    for figure in COLUMNS.values():
        shown = _shown(_of(result, multiple, figure))
        if figure == "sent/s":
            is_limit = _of(result, multiple, "client was the limit")
            shown += f" of {_shown(_of(result, multiple, 'asked/s'))}/s{' (client)' if is_limit else ''}"
        cells.append(f"**{shown}**" if f"{multiple}: {figure}" in result["missed"] else shown)
    return cells


def _of(result: dict[str, Any], multiple: str, figure: str) -> float | None:
    found: float | None = result["figures"].get(f"{multiple}: {figure}")
    return found


def _shown(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:,.0f}" if figure == round(figure) or abs(figure) >= 100 else f"{figure:.2g}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["", lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""])


def main() -> None:
    """Rewrite the tables in place."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
