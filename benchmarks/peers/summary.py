"""The tables of several logs in five: what the defaults cost, and the tuned models beside FuxiCTR's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.peers.contender import DEFAULT, FUXICTR, TUNED
from benchmarks.peers.figures import Line, Table
from benchmarks.peers.markdown import marked
from export.report.text_table import markdown_row

Cell = Callable[[Table, str], str]


def as_summary(tables: Sequence[Table]) -> str:
    """Markdown: a row a log, a column a model."""
    models = list(dict.fromkeys(line.model for table in tables for line in table.lines))
    parts = (
        ("LogLoss by default over that of scikit-learn's tuned LR, %", _default_to_lr),
        ("AUC by default minus AUC tuned", _default_to_tuned),
        ("AUC tuned minus FuxiCTR's", lambda table, model: _tuned_to_fuxictr(table, model, 0)),
        ("LogLoss tuned minus FuxiCTR's", lambda table, model: _tuned_to_fuxictr(table, model, 1)),
        ("Seconds an epoch in the grid, Bidlight's over FuxiCTR's", _seconds_to_fuxictr),
    )
    found = [_part(heading, cell, tables, models) for heading, cell in parts]
    return "\n".join(part for part in found if part)


def _part(heading: str, cell: Cell, tables: Sequence[Table], models: Sequence[str]) -> str:
    """One table; models without any figure are left out, and so is a table without any."""
    cells = {(table.log, model): cell(table, model) for table in tables for model in models}
    shown = [model for model in models if any(cells[table.log, model] for table in tables)]
    if not shown:
        return ""
    head = [markdown_row(["log", *(f"`{model}`" for model in shown)])]
    head.append(markdown_row([":--", *["--:"] * len(shown)]))
    rows = [markdown_row([table.log, *(cells[table.log, model] for model in shown)]) for table in tables]
    return "\n".join([f"### {heading}", "", *head, *rows, ""])


def _line(table: Table, model: str, by: str) -> Line | None:
    return next((line for line in table.lines if (line.model, line.by) == (model, by)), None)


def _default_to_lr(table: Table, model: str) -> str:
    line = _line(table, model, DEFAULT)
    return "" if line is None or line.to_lr is None else marked(line.to_lr, less_is_better=True, percent=True)


def _default_to_tuned(table: Table, model: str) -> str:
    line = _line(table, model, TUNED)
    return "" if line is None or DEFAULT not in line.beside else marked(line.beside[DEFAULT][0])


def _tuned_to_fuxictr(table: Table, model: str, metric: int) -> str:
    line = _line(table, model, FUXICTR)
    if line is None or TUNED not in line.beside:
        return ""
    return marked(line.beside[TUNED][metric], less_is_better=metric == 1)


def _seconds_to_fuxictr(table: Table, model: str) -> str:
    ours, theirs = (_line(table, model, by) for by in (TUNED, FUXICTR))
    if ours is None or theirs is None or ours.grid_seconds is None or theirs.grid_seconds is None:
        return ""
    return f"{ours.grid_seconds / theirs.grid_seconds:.2f}"
