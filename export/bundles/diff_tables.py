"""What two bundles differ in as rows of tables, for terminal and page alike."""

from __future__ import annotations

from export.bundles.records import Agreement, Change, DayChange, Diff, Disagreement
from export.bundles.tables import log_line
from export.report.quality import METRICS
from export.report.text_table import aligned


def sides_lines(found: Diff) -> list[str]:
    """Which bundle is which."""
    return [
        f"{name}: {side.subject.variant} of {side.subject.bundle} ({side.subject.model})"
        for name, side in (("first", found.first), ("second", found.second))
    ]


def paired_log_line(found: Diff) -> str:
    """The rows that both read, and how many of the others there are."""
    left_out = f", {found.rows_left_out:,} rows left out that only one reads" if found.rows_left_out else ""
    return f"{log_line(found.log)}{left_out}"


def change_table(changes: dict[str, Change]) -> list[list[str]]:
    """A row for each metric of both."""
    rows = [["metric", "first", "second", "second − first", "95 %", "second is"]]
    for key, (name, _) in METRICS.items():
        one = changes[key]
        rows.append(
            [name, f"{one.first:.5f}", f"{one.second:.5f}", f"{one.delta:+.5f}", _ends(one), one.verdict]
        )
    return rows


def _ends(change: Change, digits: int = 5) -> str:
    return "" if change.interval is None else " to ".join(f"{end:+.{digits}f}" for end in change.interval)


def day_table(days: tuple[DayChange, ...]) -> list[list[str]]:
    head = ["day", "rows", "clicks", "AUC first", "second − first", "95 %", "LogLoss first", "second − first",
            "95 %", "PCOC first", "second"]  # fmt: skip
    rows = [head]
    for day in days:
        cells = [day.name, f"{day.rows:,}", f"{day.clicks:,}"]
        if day.changes:
            for key in ("auc", "logloss"):
                one = day.changes[key]
                cells += [f"{one.first:.4f}", f"{one.delta:+.4f}", _ends(one, 4)]
            cells += [f"{day.changes['pcoc'].first:.3f}", f"{day.changes['pcoc'].second:.3f}"]
        rows.append([*cells, *[""] * (len(head) - len(cells))])
    return rows


def agreement_lines(found: Agreement) -> list[str]:
    """How alike they score, in sentences."""
    spearman = "none, one scores all rows alike"
    if found.rank_correlation is not None:
        spearman = f"Spearman's {found.rank_correlation:.4f}"
    ranks = (
        f"rank agreement: {spearman}; of the tenth of rows with the first's "
        f"highest pCTRs {found.top_share:.1%} are in the second's"
    )
    odds = (
        f"log-odds of the second minus the first: {found.mean_difference:+.4f} on average, "
        f"{found.mean_absolute:.4f} in absolute terms, {found.largest:.3f} at most; pCTRs of "
        f"{found.apart:.1%} of the rows are more than a tenth apart"
    )
    return [ranks, odds]


def value_table(values: tuple[Disagreement, ...]) -> list[list[str]]:
    """A row for each value whose rows differ otherwise than the whole."""
    head = ["field", "value", "rows", "click rate", "pCTR first", "second", "log-odds", "errors"]
    return [head] + [
        [one.field, one.value, f"{one.rows:,}", f"{one.clicks / one.rows:.2%}", f"{one.pctr_first:.2%}",
         f"{one.pctr_second:.2%}", f"{one.difference:+.3f}", f"{one.errors:+.1f}"]
        for one in values
    ]  # fmt: skip


def cost_table(found: Diff) -> list[list[str]]:
    """Sizes, and microseconds a row by batch size."""
    sides = (found.first, found.second)

    def of(key: str, about: str) -> list[str]:
        return [about, *(f"{getattr(side, key):,}" for side in sides)]

    return [
        ["", "first", "second"],
        of("parameters", "parameters"),
        of("columns", "ids a row"),
        of("graph_bytes", "bytes of the graph"),
        of("bundle_bytes", "bytes of the bundle"),
        *(
            [f"us a row, batch {batch}", *(f"{side.microseconds_a_row[batch]:.2f}" for side in sides)]
            for batch in found.first.microseconds_a_row
        ),
    ]


def diff_lines(found: Diff) -> list[str]:
    """Everything that a terminal shows."""
    lines = [*sides_lines(found), f"on {paired_log_line(found)}", ""]
    lines += [*aligned(change_table(found.changes)), ""]
    if found.days:
        lines += [*aligned(day_table(found.days)), ""]
    lines += [*agreement_lines(found.agreement), ""]
    if found.values:
        lines += ["where they differ otherwise than on the whole:", *aligned(value_table(found.values)), ""]
    else:
        lines += ["no value of the second one's fields stands out of their differences", ""]
    return [*lines, *aligned(cost_table(found)), f"measured on {found.machine}", ""]
