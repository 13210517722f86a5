"""Lays a paper's tables out as one HTML page that needs no other file, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.papers.cells import Paper, Table
from benchmarks.papers.judge import RESAMPLES, Row
from benchmarks.papers.plots import change_figure, times_figure
from benchmarks.papers.steps import HEAD
from benchmarks.papers.tables import (
    HOW_TO_READ,
    as_markdown,
    table_head,
    table_rows,
    times_head,
    times_rows,
)
from export.report.layout import document, figure, section, table

Grid = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A table with its rows; `steps` are those of one that trains nothing."""

    table: Table
    log: str
    rows: Sequence[Row]
    differs: Sequence[str]
    steps: Sequence[Sequence[str]] = ()

    @property
    def title(self) -> str:
        name = self.table.name
        return f"{'Table ' if name.isdigit() else ''}{name}: {self.table.title}"

    @property
    def grids(self) -> list[Grid]:
        """Heads and rows of text: figures of quality, then times."""
        if self.steps:
            return [(HEAD, self.steps)]
        found: list[Grid] = []
        times = times_rows(self.table, self.rows)
        if not times or any(row.paper is not None and row.paper.auc is not None for row in self.rows):
            found.append((table_head(self.rows), table_rows(self.rows)))
        if times:
            found.append((times_head(self.table), times))
        return found


def html_page(paper: Paper, shown: Sequence[Shown], command: str, machine: str) -> str:
    """The page of a paper."""
    head = (
        f"<h1>{escape(paper.title)}</h1><p class='lead'>{escape(machine)}</p>"
        f"<pre>{escape(command)}</pre><p>{escape(HOW_TO_READ)} ({RESAMPLES} resamples)</p>"
    )
    return document(paper.title, [head, *(_section(one) for one in shown)])


def _section(one: Shown) -> str:
    drawings = [] if one.steps else [change_figure(one.rows), times_figure(one.table, one.rows)]
    differs = "".join(f"<li>{escape(line)}</li>" for line in one.differs)
    return section(
        one.title,
        f"<p>{escape(one.table.where)}. {escape(one.log)}</p>",
        "<p></p>".join(table(head, rows) for head, rows in one.grids),
        *(figure(drawing) for drawing in drawings if drawing is not None),
        f"<p>What differs:</p><ul>{differs}</ul>",
        "".join(f"<p>{escape(line)}</p>" for line in _notes(one)),
    )


def markdown_page(paper: Paper, shown: Sequence[Shown], command: str, machine: str) -> str:
    """The same as Markdown, without drawings."""
    lines = [f"## {paper.title}", "", "```sh", command, "```", "", f"{machine}.", ""]
    for one in shown:
        lines += [f"### {one.title}", "", f"{one.table.where}. {one.log}.", ""]
        for head, rows in one.grids:
            lines += [*as_markdown(head, rows), ""]
        lines += ["What differs:", "", *(f"- {line}" for line in one.differs), ""]
        if notes := _notes(one):
            lines += [*(f"- {line}" for line in notes), ""]
    return "\n".join(lines)


def _notes(one: Shown) -> list[str]:
    """What is to be said of single rows."""
    found = [f"{row.row}: {row.note}" for row in one.rows if row.note]
    for row in one.rows:
        if row.reached and any(row.reached.values()):
            rates = ", ".join(f"{part} {share:.1%}" for part, share in row.reached.items() if share)
            neurons = "-".join(map(str, row.live_neurons)) or "no"
            found.append(f"{row.row}: zero {rates}; {neurons} live neurons, {row.live_pairs} live pairs")
        if row.kept:
            found.append(f"{row.row}: {row.kept}")
    return found


def as_json(one: Shown) -> dict[str, Any]:
    """The content of a table for machines."""
    return {
        "table": one.table.name,
        "title": one.table.title,
        "where": one.table.where,
        "log": one.log,
        "differs": list(one.differs),
        "rows": list(one.rows),
        "steps": [list(step) for step in one.steps],
    }
