"""Lays a search out as one HTML page that needs no other file; it draws no figure itself."""

from __future__ import annotations

from html import escape

from export.report.layout import change_ends, document, figure, section, table
from export.report.settings_text import said
from export.tune.plots import history_figure, slices_figure
from export.tune.records import Found
from export.tune.tables import NAMES


def tune_page(found: Found, toml: str) -> str:
    """What was found, what it wins beyond noise, every trial, and what was varied."""
    return document(
        f"{found.model} on {found.source}: tuning",
        [
            _head(found),
            section("The settings", f"<p>{escape(found.verdict)}.</p>", f"<pre>{escape(toml)}</pre>"),
            section("What tuning won", won_table(found)),
            section("Trials", figure(history_figure(found)), trials_table(found)),
            section(
                "What was varied",
                "<p>Filled: trained to the end; hollow: ended early, where other trials were at the same "
                "evaluation; orange: the best. Far worse trials are not shown. Values that end in “times” "
                "multiply the default that is fitted to the log and the model.</p>",
                figure(slices_figure(found)),
            ),
        ],
    )


def _head(found: Found) -> str:
    return (
        f"<h1>{escape(found.model)}, tuned</h1><p class='lead'>{len(found.trials)} trials on "
        f"{escape(found.source)}, judged by validation {NAMES[found.metric]}; "
        f"{found.seconds:,.0f} seconds.</p>"
    )


def won_table(found: Found) -> str:
    """Default against best on rows that the search has not seen."""
    won = found.won
    if won is None:
        return f"<p>Nothing to compare: {escape(found.verdict)}.</p>"
    rows = [
        ["LogLoss", *won.logloss, won.delta_logloss.delta, change_ends(won.delta_logloss.interval)],
        ["AUC", *won.auc, won.delta_auc.delta, change_ends(won.delta_auc.interval)],
    ]
    about = (
        f"<p>{won.rows:,} rows of the {won.part} part with {won.clicks:,} clicks, which neither training nor "
        f"the search has seen; both trained anew with the seeds {', '.join(map(str, won.seeds))}. LogLoss is "
        "after a line fitted to each one's logits. Intervals are over rows and seeds.</p>"
    )
    return about + table(["metric", "defaults", "best", "difference", "95 % interval"], rows)


def trials_table(found: Found) -> str:
    """Every trial in order."""
    rows = [
        [str(one.number), one.score, one.state, f"{one.seconds:.1f}", one.evaluations,
         one.reason or said(one.settings)]
        for one in found.trials
    ]  # fmt: skip
    head = ["trial", NAMES[found.metric], "", "seconds", "evaluations", "settings"]
    return f"<details><summary>{len(rows)} trials</summary>{table(head, rows)}</details>"
