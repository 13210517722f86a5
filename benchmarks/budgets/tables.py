"""The table of one log, for a terminal and as Markdown; it judges nothing."""

from __future__ import annotations

from benchmarks.budgets.records import Budget, Table
from export.report.text_table import markdown_row

HEAD = ("budget", "model", "recipe", "AUC, 95 %", "to the best of all", "us", "bytes", "graph", "within")


def budget_text(budget: Budget) -> str:
    """`5 us`, `100 kB`, `any`."""
    if budget.microseconds is not None:
        return f"{budget.microseconds:g} us"
    return "any" if budget.bytes is None else size_text(budget.bytes)


def size_text(size: int) -> str:
    for unit, name in ((1_000_000, "MB"), (1000, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def rows(table: Table) -> list[list[str]]:
    """A row a budget; one that no trial keeps says so."""
    found = []
    by_budget = {one.budget: one for one in table.best}
    for budget in table.budgets:
        within = len({entry.model for entry in table.entries if budget.holds(entry)})
        one = by_budget.get(budget)
        if one is None:
            found.append([budget_text(budget), "none", *[""] * 6, "0"])
            continue
        low, high = one.auc_interval
        change = one.to_free
        to_free = "" if change.low == change.high == 0 else f"{change.delta:+.4f}"
        if to_free:
            to_free += f" ({change.low:+.4f} to {change.high:+.4f})"
        entry = one.entry
        found.append(
            [
                budget_text(budget),
                entry.model,
                entry.recipe,
                f"{one.auc:.4f} ({low:.4f} to {high:.4f})",
                to_free,
                f"{entry.microseconds:.2f}",
                f"{entry.bytes:,}",
                entry.graph,
                str(within),
            ]
        )
    return found


def headline(table: Table) -> str:
    rows, test = table.rows["train"], table.rows["test"]
    clicks = table.clicks["test"] / max(1, test)
    limit = "" if table.epochs is None else f", at most {table.epochs} epochs"
    early = "" if table.complete else "; ended by its time limit"
    return (
        f"{table.log}, split by {table.split}: trained on {rows:,} rows{limit}, judged on {test:,} "
        f"({clicks:.2%} clicks); {len(table.models)} models; {table.machine}{early}"
    )


def legend(table: Table) -> str:
    """What the columns mean."""
    return (
        "Chosen by AUC on the validation part, judged on the test part. us: microseconds of one core that a "
        f"candidate of {table.candidates} takes in a request, its context computed once; within: models with "
        "a form that keeps the budget."
    )


def as_markdown(table: Table) -> str:
    """A headline, a row a budget, what the columns mean, and what failed."""
    rule = markdown_row([":--"] * 3 + ["--:"] * 4 + [":--", "--:"])
    lines = [headline(table), "", markdown_row(HEAD), rule]
    lines += [markdown_row([budget, f"`{model}`", *rest]) for budget, model, *rest in rows(table)]
    lines += ["", legend(table)]
    if table.failures:
        lines += ["", *(f"- {one.model} failed: {one.reason}" for one in table.failures)]
    return "\n".join(lines) + "\n"
