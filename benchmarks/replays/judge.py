"""What a replay has shown: PCOC by hour with intervals, LogLoss beside oracles, and how soon it follows a
shift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.replays.log import DAY, HOUR, Floats, Log
from benchmarks.replays.sending import Replayed, Rows
from service.calibration.counts import count, evidence_of
from service.calibration.fit import NONE, Correction, fit, pcoc_interval
from service.feedback.tokens import log_odds

BOUND = 0.05
LOW, HIGH = 1e-6, 1.0 - 1e-6
# Hours with fewer clicks than this are too short to tell anything of: then slices have as many rows each.
MIN_CLICKS, SLICES = 100, 40
# What comes after a shift is judged on a day, or on so many clicks where a day has fewer.
MIN_CLICKS_AFTER = 2_000


@dataclass(frozen=True)
class Slice:
    """Rows of an hour, or as many as others have, and when they begin: hours from the start of the replay."""

    hour: float
    rows: Rows


def slices_of(log: Log) -> list[Slice]:
    """Hours, if these have clicks enough."""
    hours = (log.seconds - log.seconds[0]) // HOUR
    parts = np.split(np.arange(len(log)), np.flatnonzero(np.diff(hours)) + 1)
    if float(np.median([log.clicks[rows].sum() for rows in parts])) < MIN_CLICKS:
        parts = np.array_split(np.arange(len(log)), SLICES)
    return [Slice(float(log.seconds[rows[0]] - log.seconds[0]) / HOUR, rows) for rows in parts if len(rows)]


def figures_of(log: Log, found: Replayed) -> dict[str, Any]:
    """All figures of a replay."""
    own = log.own
    slices = slices_of(log)
    each_hour, hour_before = oracles(log, slices)
    losses = {
        "bundle": _losses(log, own),
        "live": _losses(log, found.pctrs),
        "each_hour": _losses(log, each_hour),
        "hour_before": _losses(log, hour_before),
    }
    lines = [*_lines(log, slices, found)]
    gain = losses["live"] - losses["bundle"]
    figures: dict[str, Any] = {
        "rows": len(log),
        "clicks": int(log.clicks.sum()),
        "hours": round(float(log.seconds[-1] - log.seconds[0]) / HOUR, 1),
        "is_hourly": len(slices) != SLICES,
        "requests_a_second": round(found.requests_a_second),
        "logloss": {name: round(float(each.mean()), 5) for name, each in losses.items()},
        "logloss_change": [
            round(float(gain.mean() + sign * 1.96 * gain.std() / math.sqrt(len(gain))), 5)
            for sign in (-1, 0, 1)
        ],
        "error": {name: round(_error(lines, name), 4) for name in ("bundle", "live")},
        "within": {name: round(_within(lines, name), 3) for name in ("bundle", "live")},
        "revisions": found.served[-1].revision,
        "decisions": dict(found.decisions),
        "slices": lines,
        "served": [
            {
                "hour": round((served.at - int(log.seconds[0])) / HOUR, 3),
                "intercept": round(served.correction.intercept, 4),
                "slope": round(served.correction.slope, 4),
                "added": round(_added(served.correction, own), 4),
            }
            for served in found.served
        ],
    }
    if log.shift is not None:
        figures["shift_hour"] = round((log.shift - int(log.seconds[0])) / HOUR, 3)
        figures["settled"] = settled(log, found, log.shift)
    return figures


def oracles(log: Log, slices: Sequence[Slice]) -> tuple[Floats, Floats]:
    """pCTRs [n] under a correction that is fitted to each slice itself, and to the one before it.

    The first is the best that two numbers an hour can do, and knows the future. The second is what a refit
    each hour does without memory, waiting or judging.
    """
    own = log.own
    itself, before = own.copy(), own.copy()
    fits = [_fit(log, each.rows) for each in slices]
    for each, correction in zip(slices, fits, strict=True):
        itself[each.rows] = correction.pctrs(own[each.rows], LOW, HIGH)
    for correction, each in zip(fits, slices[1:], strict=False):
        before[each.rows] = correction.pctrs(own[each.rows], LOW, HIGH)
    return itself, before


def settled(log: Log, found: Replayed, shift: int) -> dict[str, Any]:
    """How soon what is served gives the rows after a shift a PCOC within 1 ± BOUND, and for how long it does.

    The rows are those of a day, or of MIN_CLICKS_AFTER clicks. Minutes and clicks until then are None if it
    never does.
    """
    first = int(np.searchsorted(log.seconds, shift))
    clicked = np.flatnonzero(log.clicks[first:])
    last = int(np.searchsorted(log.seconds, shift + DAY))
    if len(clicked):
        last = max(last, first + int(clicked[min(len(clicked), MIN_CLICKS_AFTER) - 1]) + 1)
    rows = slice(first, last)
    end = int(log.seconds[min(last, len(log)) - 1])
    clicks = float(log.clicks[rows].sum())
    told: dict[str, Any] = {"minutes": None, "clicks": None, "held": None, "judged_clicks": int(clicks)}
    since, within = None, 0
    ends = [each.at for each in found.served[1:]] + [end]
    for served, until in zip(found.served, ends, strict=True):
        start, until = max(served.at, shift), min(until, end)
        if until <= start:
            continue
        pcoc = float(served.correction.pctrs(log.own[rows], LOW, HIGH).sum()) / clicks
        if abs(pcoc - 1.0) <= BOUND:
            if since is None:
                since = start
                told["minutes"] = round((since - shift) / 60)
                told["clicks"] = int(log.clicks[first : np.searchsorted(log.seconds, start)].sum())
            within += until - start
    if since is not None:
        told["held"] = round(within / max(1, end - since), 3)
    return told


def _fit(log: Log, rows: Rows) -> Correction:
    odds, clicked = log_odds(log.own[rows]), log.clicks[rows]
    shown = count(odds, np.zeros(len(rows), bool))
    return fit(evidence_of(shown + count(odds[clicked], np.ones(int(clicked.sum()), bool))))


def _lines(log: Log, slices: Sequence[Slice], found: Replayed) -> Iterator[dict[str, Any]]:
    """Of each slice rows, clicks, revision, and PCOC with its interval without and with live calibration."""
    for each in slices:
        clicks = int(log.clicks[each.rows].sum())
        at = int(log.seconds[each.rows[-1]])
        line: dict[str, Any] = {"hour": round(each.hour, 2), "rows": len(each.rows), "clicks": clicks}
        for name, pctrs in (("bundle", log.own), ("live", found.pctrs)):
            predicted = float(pctrs[each.rows].sum())
            ends = pcoc_interval(predicted, clicks)
            line[name] = [round(value, 4) for value in (predicted / clicks, *ends)] if clicks else None
        line["revision"] = max(served.revision for served in found.served if served.at <= at)
        yield line


def _error(lines: Sequence[dict[str, Any]], name: str) -> float:
    """Mean |log PCOC| of slices, by their clicks."""
    known = [(line["clicks"], abs(math.log(line[name][0]))) for line in lines if line[name] is not None]
    total: float = sum(clicks * error for clicks, error in known) / sum(clicks for clicks, _ in known)
    return total


def _within(lines: Sequence[dict[str, Any]], name: str) -> float:
    """The share of slices whose interval holds 1."""
    known = [line[name] for line in lines if line[name] is not None]
    inside: int = sum(low <= 1.0 <= high for _, low, high in known)
    return inside / len(known)


def _added(correction: Correction, own: Floats) -> float:
    """What a correction adds to the mean log-odds."""
    if correction == NONE:
        return 0.0
    mean = np.array([float(log_odds(own).mean())])
    return float(correction.log_odds(mean)[0] - mean[0])


def _losses(log: Log, pctrs: Floats) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -np.log(np.where(log.clicks, pctrs, 1.0 - pctrs))
    return losses
