"""The table of one log as Markdown."""

from __future__ import annotations

from benchmarks.peers.contender import DEFAULT, TUNED
from benchmarks.peers.figures import Line, Table
from export.judge.bootstrap import Delta
from export.report.text_table import markdown_row

HEAD = (
    "model",
    "by",
    "AUC",
    "LogLoss",
    "LogLoss to LR, %",
    "s/epoch",
    "epochs",
    "default - it: AUC",
    "LogLoss",
    "tuned - it: AUC",
    "LogLoss",
    "chosen",
)


def as_markdown(table: Table) -> str:
    """A heading, what was trained and judged on what, and a row a model."""
    told = (
        f"Split by {table.split}: trained on {table.rows['train']:,} rows ({_rate(table, 'train')} clicks), "
        f"judged on {table.rows['test']:,} ({_rate(table, 'test')}, {table.clicks['test']:,} clicks). "
        f"Embeddings of {table.dim}, hidden layers {'-'.join(map(str, table.hidden_units))}; grids at "
        f"{table.batch_size} rows a step; {table.resamples} resamples. {table.machine}."
    )
    head = [markdown_row(HEAD), markdown_row([":--", ":--", *["--:"] * 9, ":--"])]
    rows = [f"## {table.log}", "", told, "", *head, *(markdown_row(_cells(line)) for line in table.lines)]
    return "\n".join(rows) + "\n"


def _rate(table: Table, part: str) -> str:
    return f"{table.clicks[part] / table.rows[part]:.2%}"


def _cells(line: Line) -> list[str]:
    by = line.by if line.seeds > 1 else f"{line.by}, one run"
    return [
        f"`{line.model}`",
        by,
        f"{line.auc:.4f}",
        f"{line.logloss:.4f}",
        "" if line.to_lr is None else marked(line.to_lr, less_is_better=True, percent=True),
        "" if line.epoch_seconds is None else f"{line.epoch_seconds:.2g}",
        f"{line.epochs:.3g}",
        *_gaps(line, DEFAULT),
        *_gaps(line, TUNED),
        line.chosen,
    ]


def _gaps(line: Line, ours: str) -> list[str]:
    if ours not in line.beside:
        return ["", ""]
    auc, logloss = line.beside[ours]
    return [marked(auc), marked(logloss, less_is_better=True)]


def marked(gap: Delta, *, less_is_better: bool = False, percent: bool = False) -> str:
    """A difference with its interval; an arrow up where what it is of is better beyond it, else down."""
    if gap.low == gap.delta == gap.high == 0:
        return "same"
    mark = {1: "▲ ", -1: "▼ ", 0: ""}[-gap.sign if less_is_better else gap.sign]
    numbers = (gap.delta, gap.low, gap.high)
    delta, low, high = (f"{100 * each:+.2f}" if percent else f"{each:+.4f}" for each in numbers)
    return f"{mark}{delta} ({low}, {high})"
