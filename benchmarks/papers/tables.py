"""A judged table as rows of text, as Markdown, and what is not as in the paper. It judges nothing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.papers.cells import Figures, Table
from benchmarks.papers.judge import Estimate, Row
from benchmarks.papers.running import Run
from benchmarks.papers.settle import names_fields
from export.report.text_table import markdown_row

HOW_TO_READ = (
    "AUC and LogLoss are means of the seeds on the test part (± their standard deviation), LogLoss after a "
    "line fitted to the calibration part. Δ is the change of AUC against the row that is named, with a 95 % "
    "interval of rows and seeds, with one seed of rows alone. ▲ ▼ mark a change whose interval leaves out 0. "
    "“as there” says whether its sign is that of the paper's, and ? that rows and seeds are too few to tell. "
    "Rows without figures of the paper are ours."
)

FEW_BATCHES = 3  # whose ratios fit into a column


def table_head(rows: Sequence[Row]) -> list[str]:
    """The columns that have something in them; of two figures in a cell the paper's comes first."""
    return [name for name, is_used in _columns(rows) if is_used]


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A row of text for each row, in the columns of `table_head`."""
    used = [is_used for _, is_used in _columns(rows)]
    return [[cell for cell, is_used in zip(_cells(row), used, strict=True) if is_used] for row in rows]


def _columns(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    papers = [row.paper for row in rows if row.paper is not None]
    has_base, has_rival = any(row.against for row in rows), any(row.rival for row in rows)

    def is_printed(name: str) -> bool:
        return any(getattr(one, name) is not None for one in papers)

    return [
        ("there / here", True),
        ("AUC", True),
        ("LogLoss", True),
        ("PRAUC", is_printed("prauc")),
        ("RCE %", is_printed("rce")),
        ("against", has_base),
        ("Δ AUC", has_base),
        ("as there", has_base),
        ("also against", has_rival),
        ("Δ AUC", has_rival),
        ("parameters", True),
        ("MB", is_printed("megabytes")),
        ("MB of layers", is_printed("layer_megabytes")),
        ("seeds", True),
    ]


def _cells(row: Row) -> list[str]:
    paper = row.paper or Figures()
    name = f"{row.row}{'' if not row.reason or row.auc else f' ({row.reason})'}"
    layers = None if row.layer_parameters is None else 12 * row.layer_parameters / 1e6
    return [
        name,
        _pair(_number(paper.auc, ".4f"), _with_seeds(row.auc)),
        _pair(
            _number(paper.logloss, ".4f"), _number(None if row.logloss is None else row.logloss.value, ".4f")
        ),
        _pair(_number(paper.prauc, ".4f"), _number(row.prauc, ".4f")),
        _pair(_number(paper.rce, ".2f"), _number(row.rce, ".2f")),
        row.against,
        _pair(_number(row.paper_delta, "+.4f"), change_text(row.delta)),
        agreement(row.paper_delta, row.delta),
        row.rival,
        _pair(_number(row.paper_rival_delta, "+.4f"), change_text(row.rival_delta)),
        _pair(_number(paper.parameters, ","), _number(row.parameters, ",.0f")),
        _pair(_number(paper.megabytes, ".2f"), _number(row.bytes and row.bytes / 1e6, ".2f")),
        _pair(_number(paper.layer_megabytes, ".2f"), _number(layers, ".2f")),
        str(row.seeds),
    ]


def _pair(there: str, here: str) -> str:
    """The paper's figure and ours; a dash where there is none."""
    return f"{there or '–'} / {here or '–'}" if there or here else ""


def change_text(change: Estimate | None) -> str:
    """A difference with its interval, marked where it is one."""
    if change is None:
        return ""
    mark = {1: "▲ ", -1: "▼ ", 0: ""}[change.sign]
    return f"{mark}{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def agreement(there: float | None, here: Estimate | None) -> str:
    """Whether ours has the sign of the paper's difference, where rows and seeds tell it.

    An interval that holds 0 says nothing, of a difference that the paper prints as 0 either.
    """
    if there is None or here is None:
        return ""
    if here.sign == 0:
        return "?"
    return "yes" if here.sign * there > 0 else "no"


def times_head(table: Table) -> list[str]:
    """Of the second table of one whose rows are timed."""
    batches = [str(batch) for batch in table.batches]
    return [
        "us a row, by rows a batch", *batches, "against its graph", "its PyTorch", "paper: ms", "times there",
    ]  # fmt: skip


def times_rows(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    """Microseconds a row of each graph and PyTorch model, and how many times faster than what it is against.

    The ratios are those of each batch, of many batches the largest's; of the paper the largest's too.
    """
    by_name = {row.row: row for row in rows}
    found = []
    for row in rows:
        base = by_name.get(row.against or row.row)
        if row.milliseconds:
            found.append([row.row, *_of_batches(table, row.milliseconds), *_faster(table, row, base)])
        if row.torch_milliseconds:
            found.append([f"{row.row}, PyTorch", *_of_batches(table, row.torch_milliseconds), "", "", "", ""])
    return found


def _of_batches(table: Table, times: dict[str, float]) -> list[str]:
    return [f"{times[str(batch)] / batch * 1e3:.2f}" for batch in table.batches]


def _faster(table: Table, row: Row, base: Row | None) -> list[str]:
    if base is None:
        base = row
    printed = row.paper.milliseconds if row.paper is not None else {}
    of_base = base.paper.milliseconds if base.paper is not None else {}
    batch = max(printed, default=None)
    there = "" if batch is None or batch not in of_base else f"{of_base[batch] / printed[batch]:.1f}x"
    return [
        _ratios(table, base.milliseconds, row.milliseconds),
        _ratios(table, base.torch_milliseconds, row.milliseconds),
        "" if batch is None else f"{printed[batch]:g} @{batch}",
        there,
    ]


def _ratios(table: Table, base: dict[str, float], mine: dict[str, float]) -> str:
    if not base:
        return ""
    batches = table.batches if len(table.batches) <= FEW_BATCHES else table.batches[-1:]
    return " / ".join(f"{base[str(batch)] / mine[str(batch)]:.1f}x" for batch in batches)


def differences(run: Run, table: Table) -> list[str]:
    """What is not as in the paper: the log, the training, and what the table itself says."""
    options = run.options
    found = []
    if not table.made and not run.is_like:
        found.append(f"the log is none of the paper's; its figures are those on {table.log or run.beside}")
    elif not table.made and table.log and table.log != run.beside:
        found.append(f"the paper's figures are those on {table.log}, which alone it tells")
    if options.as_paper:
        found.append("training is as in the paper, but for what is said here")
    else:
        found.append(
            "batches, step sizes and penalties fit the log (docs/training.md), not the paper; the weights "
            "that are best on the validation part are kept"
        )
    if options.epochs is not None:
        found.append(f"no model is trained for more than {options.epochs} epochs")
    if any(names_fields(build) for cell in table.cells for build in cell.builds):
        found.append(f"fields here: {run.grounds[''].fields}")
    return [*found, *options.paper.differs, *table.differs]


def log_line(run: Run, table: Table) -> str:
    """Which rows a table is of."""
    targets = [target for target in run.grounds if bool(target) == table.made]
    summary = run.grounds[targets[0]].summary
    rows = summary.rows
    options = run.options
    spaced = "" if options.rows is None else f", {options.rows:,} rows at most, evenly spaced"
    what = "rows made here in the format of Twitter's log" if table.made else f"{options.data.name}{spaced}"
    rates = (
        f"{target or 'clicks'} {ground.summary.clicks['test'] / max(1, rows['test']):.1%}"
        for target, ground in run.grounds.items()
        if bool(target) == table.made
    )
    return (
        f"{what}, split by {summary.split}: {rows['train']:,} rows of training, {rows['test']:,} of test "
        f"({', '.join(rates)})"
    )


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [markdown_row(line) for line in (head, [":--", *["--:"] * (len(head) - 1)], *rows)]


def _with_seeds(one: Estimate | None) -> str:
    if one is None:
        return ""
    return f"{one.value:.4f}" if one.seeds is None else f"{one.value:.4f} ± {one.seeds:.4f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
