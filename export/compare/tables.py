"""A comparison as text for a terminal and as Markdown for a README; it judges nothing."""

from __future__ import annotations

from collections.abc import Callable

from export.compare.records import Comparison, Row
from export.judge.bootstrap import Delta
from export.report.text_table import aligned, markdown_row

ABOVE, BELOW, EQUAL = "▲", "▼", "="
PARTS = ("train", "validation", "calibration", "test")


def as_text(comparison: Comparison) -> str:
    """What was compared on which log, the table, what its marks mean, and what failed."""
    lines = [headline(comparison), *aligned(cells(comparison)), ""]
    return "\n".join([*lines, *legend(comparison), *failure_lines(comparison)])


def as_markdown(comparison: Comparison) -> str:
    """The same as a Markdown table."""
    head, *rows = cells(comparison)
    lines = [
        headline(comparison),
        "",
        markdown_row(head),
        markdown_row([":--", *["--:"] * (len(head) - 1)]),
        *(markdown_row([f"`{name}`", *rest]) for name, *rest in rows),
        "",
        *legend(comparison),
    ]
    if comparison.failures:
        lines += ["", *(f"- {line}" for line in failure_lines(comparison))]
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Comparison], str]] = {"text": as_text, "markdown": as_markdown}


def headline(comparison: Comparison) -> str:
    log = comparison.log
    test = log.rows["test"]
    return (
        f"{log.source}, split by {log.split}: trained on {log.rows['train']:,} rows, judged on {test:,} "
        f"({log.clicks['test'] / max(1, test):.2%} clicks); {comparison.machine}"
    )


def cells(comparison: Comparison) -> list[list[str]]:
    """A head, then a row for each model."""
    batches = list(comparison.rows[0].microseconds_a_row) if comparison.rows else []
    head = ["model", "parameters", "bytes", "graph", "AUC", "vs best"]
    head += [f"vs {comparison.reference}"] if comparison.reference else []
    head += ["LogLoss", "PRAUC", "RCE %", "ECE", "PCOC", "s/epoch", "epochs"]
    head += [f"us/row @{batch}" for batch in batches]
    return [head, *(_row(row, comparison) for row in comparison.rows)]


def _row(row: Row, comparison: Comparison) -> list[str]:
    against = row.against_reference
    return [
        row.model,
        f"{row.parameters:,}",
        f"{row.graph_bytes:,}",
        row.variant,
        auc_text(row),
        best_text(row, comparison),
        *([reference_text(row.model, against, comparison)] if comparison.reference else []),
        f"{row.logloss:.4f}",
        f"{row.prauc:.4f}",
        f"{row.rce:.2f}",
        f"{row.ece:.4f}",
        f"{row.pcoc:.3f}",
        "" if row.seconds_an_epoch is None else f"{row.seconds_an_epoch:.3g}",
        str(row.epochs),
        *(f"{time:.2f}" for time in row.microseconds_a_row.values()),
    ]


def auc_text(row: Row) -> str:
    return f"{row.auc:.4f}" if row.auc_sd is None else f"{row.auc:.4f} ± {row.auc_sd:.4f}"


def best_text(row: Row, comparison: Comparison) -> str:
    """`best`, or the difference with = where it may be none."""
    if row.model == comparison.best:
        return "best"
    equal = f"{EQUAL} " if row.against_best.sign == 0 else ""
    return f"{equal}{row.against_best.delta:+.4f}"


def reference_text(model: str, against: Delta | None, comparison: Comparison) -> str:
    """The difference with ▲ or ▼ where it is one."""
    if against is None or model == comparison.reference:
        return ""
    mark = {1: f"{ABOVE} ", -1: f"{BELOW} ", 0: ""}[against.sign]
    return f"{mark}{against.delta:+.4f}"


def legend(comparison: Comparison) -> list[str]:
    """What the marks mean, and what bounds the AUC."""
    reference = comparison.reference
    versus = f"; {ABOVE} {BELOW} above, below {reference}" if reference else ""
    interval = f"the same test rows (paired bootstrap, {comparison.resamples} resamples)"
    lines = [
        f"{EQUAL} not distinguishable from the best{versus}, by the 95 % interval of Δ AUC on {interval}."
    ]
    if comparison.rows and comparison.rows[0].auc_sd is not None:
        lines.append(
            "AUC is the mean of the seeds ± their standard deviation; other figures of quality are means."
        )
    if comparison.auc_of_true_pctr is not None:
        lines.append(
            f"AUC of the true click probability, which no model can beat: {comparison.auc_of_true_pctr:.4f}."
        )
    return lines


def failure_lines(comparison: Comparison) -> list[str]:
    """A line for each model without a result."""
    several = any(failure.seed != comparison.failures[0].seed for failure in comparison.failures)
    return [
        f"{one.model}{f' (seed {one.seed})' if several else ''} failed in {one.stage}: {one.reason}"
        for one in comparison.failures
    ]
