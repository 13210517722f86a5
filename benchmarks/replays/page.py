"""Lays the figures of replays out as one HTML page that needs no other file, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from benchmarks.replays import plots
from benchmarks.replays.judge import BOUND
from export.report.layout import document, figure, section, table

ABOUT = (
    "Each log was sent to a real service in the order of its time, a request a row, over HTTP, by a clock"
    " that is that of the log. It has live calibration, and gets the impressions, and the clicks as late "
    "as they come. Without, a service answers what the bundle says. Slices are hours where these have "
    "clicks enough, else as many rows each. Shaded: 95 % intervals, and PCOC of 1 ± 0.05. The correction "
    "of <i>each hour</i> is fitted to that very hour and judged on it, which nobody can do in time; that "
    "of the <i>hour before</i> is fitted to the last one, without gates. Settled is the time, and the "
    "clicks in it, until what is served gives the day after the shift a PCOC of 1 ± 0.05 (or the next "
    "2,000 clicks, where a day has fewer); held is for which part of what is left of it."
)
LOSSES = ("bundle", "live", "hour_before", "each_hour")
HEAD = [
    *("log", "rows", "clicks", "LogLoss: bundle", "live", "hour before", "each hour"),
    *("|log PCOC|: bundle", "live", "holds 1: bundle", "live", "revisions", "reverted", "settled", "held"),
]


def summary_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row for each replay."""
    for log in found.get("logs", {}).values():
        for name, run in log["runs"].items():
            yield [
                f"{log['title']}, {name}",
                f"{run['rows']:,}",
                f"{run['clicks']:,}",
                *(f"{run['logloss'][loss]:.5f}" for loss in LOSSES),
                *(f"{run['error'][each]:.3f}" for each in ("bundle", "live")),
                *(f"{100 * run['within'][each]:.0f} %" for each in ("bundle", "live")),
                str(run["revisions"]),
                str(run["decisions"]["reverted"]),
                *_settled(run),
            ]


AUCTIONS_HEAD = ["learns from", "rivals", "won", "PCOC won", "lost", "all", "revisions"]


def auction_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row for each simulated auction."""
    for run in found.get("auctions", {}).get("runs", ()):
        yield [
            run["learns"],
            f"x {run['strength']:g}",
            f"{100 * run['won']:.0f} %",
            *(
                "–" if run[key] is None else f"{run[key]:.3f}"
                for key in ("pcoc_won", "pcoc_lost", "pcoc_all")
            ),
            str(run["revisions"]),
        ]


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    head = (
        f"<h1>Live calibration, replayed</h1><p class='lead'>{escape(found['machine'])}</p><p>{ABOUT}</p>"
        f"<pre>{escape(chr(10).join(found['commands']))}</pre>"
    )
    sections = [head, section("All replays", table(HEAD, summary_rows(found)))]
    for log in found.get("logs", {}).values():
        parts = [f"<p>{escape(log['about'])}</p>"]
        for name, run in log["runs"].items():
            parts += [f"<h3>{escape(name)}</h3>", figure(plots.replay_figure(run)), _slices(run)]
        sections.append(section(log["title"], *parts))
    if (auctions := found.get("auctions")) is not None:
        middle = [run for run in auctions["runs"] if run["strength"] == 1.0]
        sections.append(
            section(
                "Auctions: what feedback of won ones alone does",
                f"<p>{escape(auctions['about'])}</p>",
                table(AUCTIONS_HEAD, auction_rows(found)),
                figure(plots.bias_figure(auctions["runs"])),
                figure(plots.auctions_figure(middle, auctions["hours"])),
            )
        )
    return document("Live calibration, replayed", sections)


def _settled(run: Mapping[str, Any]) -> tuple[str, str]:
    if (found := run.get("settled")) is None:
        return "", ""
    if found["minutes"] is None:
        return f"never within {BOUND:g}", ""
    return f"{found['minutes']:,} min, {found['clicks']:,} clicks", f"{100 * found['held']:.0f} %"


def _slices(run: Mapping[str, Any]) -> str:
    head = ["hour", "rows", "clicks", "PCOC bundle", "PCOC live", "revision"]
    rows = [
        [
            f"{line['hour']:g}",
            *(line["rows"], line["clicks"]),
            *(_pcoc(line[name]) for name in ("bundle", "live")),
            line["revision"],
        ]
        for line in run["slices"]
    ]
    return f"<details><summary>{len(rows)} slices</summary>{table(head, rows)}</details>"


def _pcoc(value: list[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.3f} ({value[1]:.3f} … {value[2]:.3f})"
