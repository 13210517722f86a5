"""Lays a search for a budget out as one HTML page that needs no other file; it draws no figure itself."""

from __future__ import annotations

from html import escape

from export.budgets.plots import front_figure
from export.budgets.records import Searched
from export.budgets.tables import HEAD, front_rows, recipe_text, verdict
from export.report.layout import document, figure, section, table


def search_page(found: Searched) -> str:
    """What keeps the limits, the front, and every trial."""
    return document(
        f"{found.model} on {found.source}: compression",
        [
            _head(found),
            section("The budget", f"<p>{escape(_sentence(verdict(found)))}</p>"),
            section(
                "The front",
                _how_to_read(found),
                figure(front_figure(found)),
                table(HEAD, front_rows(found)),
                MEANINGS,
            ),
            section("Trials", _trials(found)),
        ],
    )


MEANINGS = """<p>D, R and F are the shares pruned of the DNN's weights, field pairs and embeddings; N, I and K
those of whole neurons, interactions and dimensions. Before them stands the student that is pruned, where it
is not the model itself, with what its hidden layers and embeddings are divided by; after them “float” where
no INT8 was made. “To dense” is the change of AUC on the validation part, by which trials are chosen: the
best of many is best there by luck too. “On unseen rows” is the calibration part, with the 95 % interval of
the paired bootstrap. Microseconds are those of one core; each trial is timed beside the dense graph, and its
share of that is told in the dense graph's microseconds of the first trial.</p>"""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _head(found: Searched) -> str:
    return (
        f"<h1>{escape(found.model)}, compressed</h1><p class='lead'>{len(found.trials)} trials on "
        f"{escape(found.source)}; {found.seconds:,.0f} seconds; {escape(found.machine)}.</p>"
    )


def _how_to_read(found: Searched) -> str:
    dense = found.dense
    return (
        "<p>Filled: no other trial has a higher AUC in fewer microseconds and bytes; orange: the bundle; "
        f"diamond and dashed line: the dense float32 graph, with AUC {dense.auc:.5f}, "
        f"{dense.microseconds:.2f} us a candidate and {dense.bytes:,} bytes; dotted: the budget. Trials far "
        "below the others are not shown.</p>"
    )


def _trials(found: Searched) -> str:
    rows = []
    for one in found.trials:
        form = one.form
        figures = ["", "", "", one.reason] if form is None else [
            f"{form.auc:.5f}", f"{form.microseconds:.2f}", f"{form.bytes:,}", form.variant,
        ]  # fmt: skip
        rows.append([str(one.number), one.name, recipe_text(one.values), *figures, f"{one.seconds:.1f}"])
    head = ["trial", "", "recipe", "AUC", "us a candidate", "bytes", "graph", "seconds"]
    return f"<details><summary>{len(rows)} trials</summary>{table(head, rows)}</details>"
