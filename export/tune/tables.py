"""A search as lines for a terminal; it judges nothing."""

from __future__ import annotations

from collections.abc import Sequence

from export.report.settings_text import said
from export.report.text_table import aligned
from export.train.config import Metric
from export.tune.records import TrialRecord, Won, ranked

SHOWN = 5
NAMES = {"logloss": "LogLoss", "auc": "AUC"}


def trial_line(one: TrialRecord, best: TrialRecord | None, trials: int | None) -> str:
    """What a trial did, and the best so far."""
    number = f"trial {one.number}" + (f"/{trials}" if trials else "")
    if one.state == "failed":
        return f"{number}: failed: {one.reason} ({said(one.settings)})"
    early = f"ended early after {one.evaluations} evaluations at"
    state = early if one.state == "ended early" else "validation"
    mark = " *" if best is not None and best.number == one.number else ""
    other = f" (best {best.score:.5f}, trial {best.number})" if best is not None and not mark else ""
    return f"{number}: {state} {one.score:.5f}{mark}{other}, {one.seconds:.1f} s: {said(one.settings)}"


def best_table(trials: Sequence[TrialRecord], metric: Metric) -> list[str]:
    """The best finished trials, and the defaults, best first."""
    rows = [
        [f"{one.number}", f"{one.score:.5f}", f"{one.seconds:.1f}", said(one.settings)]
        for one in ranked(trials, metric)
    ]
    kept = [row for at, row in enumerate(rows) if at < SHOWN or row[0] == "1"]
    table = aligned([["trial", f"validation {NAMES[metric]}", "seconds"], *(row[:3] for row in kept)])
    return [
        table[0] + "  settings",
        *(f"{line}  {row[3]}" for line, row in zip(table[1:], kept, strict=True)),
    ]


def verdict(won: Won | None) -> str:
    """What tuning won, in a sentence; None: the best trial is that of the defaults."""
    if won is None:
        return "tuning won nothing: of all trials the defaults are the best"
    gain = won.gain
    before, after = won.logloss if won.metric == "logloss" else won.auc
    figures = (
        f"{NAMES[won.metric]} {before:.5f} with the defaults, {after:.5f} tuned, a gain of {gain.delta:+.5f} "
        f"(95 % interval {gain.low:+.5f} to {gain.high:+.5f}) on {won.rows:,} rows that no trial has seen"
    )
    if won.beyond_noise:
        return f"tuning won something beyond noise: {figures}"
    if gain.high < 0:
        return f"tuning won nothing, the defaults do better: {figures}"
    return f"tuning won nothing beyond noise, the defaults do as well: {figures}"
