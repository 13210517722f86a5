"""What live calibration does on a log replayed in the order of time: PCOC by hour, LogLoss, time to follow.

`python -m benchmarks.live_calibration` trains a bundle on the first part of a log and replays the rest
through the parts of the service that count, decide and correct, with a clock that is simulated. Clicks come
late, by an exponential delay. It does so twice: with the log as it is, and with a sudden shift of the base
rate in the middle of the replay, from which on a part of the clicks is not there. Without --data the log is
the synthetic one, whose effects drift.

oracle is the correction of each hour that is fitted to that very hour. settled is how long after the shift
the correction that is served gives the rows of the following day a PCOC from 0.95 to 1.05; held is for which
part of what is left of that day it does so.

Where the log has true click probabilities, as the synthetic one, a third replay asks what feedback of won
auctions alone does: a rival bids the true probability times a lognormal factor, and only what is answered
above that is shown.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, print_table
from export.bundles.collect import collect
from export.bundles.plan import ReadPlan
from export.bundles.scorer import Scorer
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.train.choices import TrainChoice
from service.bundle.store import Bundle, load_bundle
from service.calibration.counts import count, evidence_of
from service.calibration.decider import Decider
from service.calibration.fit import NONE, Correction, fit
from service.calibration.memory import LiveMemory, LivePart
from service.calibration.revisions import Revisions
from service.feedback.tokens import log_odds
from service.metrics.families import Metrics
from service.settings import Settings

SOURCE, ARM = 1, "control"
MINUTE, HOUR, DAY = 60, 3_600, 86_400
BOUND = 0.05
LOW, HIGH = 1e-6, 1.0 - 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """Rows in the order of time [n]: Unix seconds, the bundle's pCTRs, whether each is clicked if shown.

    `rivals` [n] is what a pCTR must be above for its row to be shown; none: all are.
    """

    seconds: NDArray[np.int64]
    pctrs: Floats
    clicks: NDArray[np.bool_]
    rivals: Floats | None = None

    def shifted(self, at: int, lost: float, rng: np.random.Generator) -> Log:
        """From this time on, this share of the clicks is not there."""
        is_lost = (self.seconds >= at) & (rng.random(len(self.seconds)) < lost)
        return replace(self, clicks=self.clicks & ~is_lost)

    def won(self, rows: NDArray[np.intp], pctrs: Floats) -> NDArray[np.intp]:
        """Those of some rows that are shown under the pCTRs [n] of all."""
        return rows if self.rivals is None else rows[pctrs[rows] > self.rivals[rows]]


@dataclass(frozen=True, eq=False)
class Replayed:
    """pCTRs as they are answered [n], and what is served from each time on: Unix seconds, revision."""

    pctrs: Floats
    served: list[tuple[int, int, Correction]]

    def revision(self, second: int) -> int:
        """The one that is served then."""
        return max((number for at, number, _ in self.served if at <= second), default=0)


def replay(log: Log, settings: Settings, delay_seconds: float, rng: np.random.Generator) -> Replayed:
    """Answer each row, tell its impression at once and its click later, and decide each minute."""
    memory = LiveMemory(2, 1, settings.click_window_seconds)
    start = int(log.seconds[0]) // MINUTE * MINUTE
    decider = Decider(settings, memory, Metrics(), 1000 * start)
    decider.serve({SOURCE: ARM})
    revisions, parts = Revisions(memory), [LivePart(memory, number) for number in range(2)]
    odds, made_ms = log_odds(log.pctrs), 1000 * log.seconds
    clicked = np.flatnonzero(log.clicks)
    arrivals = log.seconds[clicked] + rng.exponential(delay_seconds, len(clicked))
    clicked, arrivals = clicked[order := np.argsort(arrivals)], arrivals[order]
    edges = np.arange(start, int(log.seconds[-1]) + 2 * MINUTE, MINUTE)
    shown_at, clicked_at = np.searchsorted(log.seconds, edges), np.searchsorted(arrivals, edges)
    answered, served = log.pctrs.copy(), [(start, 0, NONE)]
    for minute, now in enumerate(edges[1:].tolist()):
        shown = np.arange(shown_at[minute], shown_at[minute + 1])
        revision = revisions.revision(SOURCE)
        if revision is not None:
            answered[shown] = revision.correction.pctrs(log.pctrs[shown], LOW, HIGH)
        shown = log.won(shown, answered)
        some = log.won(clicked[clicked_at[minute] : clicked_at[minute + 1]], answered)
        for rows, is_click in ((shown, False), (some, True)):
            for number, part in enumerate(parts):  # a click may come to another process than its impression
                mine = rows[(rows + is_click) % len(parts) == number]
                part.add(SOURCE, made_ms[mine], odds[mine], np.full(len(mine), is_click))
        decider.step_if_due(1000 * now)
        state = revisions.state(SOURCE)
        if state.revision != served[-1][1]:
            served.append((now, state.revision, Correction(state.intercept, state.slope)))
    return Replayed(answered, served)


def oracle(log: Log) -> Floats:
    """pCTRs [n] under the correction of each hour that is fitted to it."""
    found, odds, hours = log.pctrs.copy(), log_odds(log.pctrs), log.seconds // HOUR
    for rows in np.split(np.arange(len(hours)), np.flatnonzero(np.diff(hours)) + 1):
        clicked = rows[log.clicks[rows]]
        counts = count(odds[rows], np.zeros(len(rows), bool)) + count(
            odds[clicked], np.ones(len(clicked), bool)
        )
        found[rows] = fit(evidence_of(counts)).pctrs(log.pctrs[rows], LOW, HIGH)
    return found


def settled(log: Log, found: Replayed, shift: int) -> tuple[float | None, float | None]:
    """Minutes from the shift until PCOC of the day after it is within bounds, and the share it is then."""
    day = (log.seconds >= shift) & (log.seconds < shift + DAY)
    clicks = float(log.clicks[day].sum())
    ends = [at for at, _, _ in found.served[1:]] + [shift + DAY]
    first, within = None, 0.0
    for (at, _, correction), until in zip(found.served, ends, strict=True):
        since, until = max(at, shift), min(until, shift + DAY)
        if until <= since:
            continue
        pcoc = float(correction.pctrs(log.pctrs[day], LOW, HIGH).sum()) / clicks
        if abs(pcoc - 1.0) <= BOUND:
            first = since if first is None else first
            within += until - since
    if first is None:
        return None, None
    return (first - shift) / MINUTE, within / (shift + DAY - first)


def logloss(clicks: NDArray[np.bool_], pctrs: Floats) -> float:
    """Mean over rows, nats."""
    return float(-np.log(np.where(clicks, pctrs, 1.0 - pctrs)).mean())


def by_hours(log: Log, found: Replayed, hours: int) -> list[dict[str, Any]]:
    """Rows, clicks, PCOC without and with, and the last revision, of so many hours each."""
    periods, lines = (log.seconds - log.seconds[0]) // (hours * HOUR), []
    for period in np.unique(periods).tolist():
        rows = periods == period
        clicks = int(log.clicks[rows].sum())
        line: dict[str, Any] = {"hour": period * hours, "rows": int(rows.sum()), "clicks": clicks}
        for name, pctrs in (("bundle", log.pctrs), ("live", found.pctrs)):
            line[name] = round(float(pctrs[rows].sum()) / clicks, 4) if clicks else None
        line["revision"] = found.revision(int(log.seconds[rows][-1]))
        lines.append(line)
    return lines


def judged(log: Log, settings: Settings, delay: float, shift: int | None, hours: int) -> dict[str, Any]:
    """All figures of a replay."""
    found = replay(log, settings, delay, np.random.default_rng(1))
    figures: dict[str, Any] = {
        "logloss": {
            "bundle": logloss(log.clicks, log.pctrs),
            "live": logloss(log.clicks, found.pctrs),
            "oracle": logloss(log.clicks, oracle(log)),
        },
        "revisions": len(found.served) - 1,
        "by_hour": by_hours(log, found, hours),
    }
    if shift is not None:
        figures["settled_minutes"], figures["held"] = settled(log, found, shift)
    return figures


def auctions(log: Log, settings: Settings, delay: float) -> dict[str, Any]:
    """PCOC of the rows that are won, and of all, without and with a correction that knows the won ones."""
    found = replay(log, settings, delay, np.random.default_rng(1))
    figures: dict[str, Any] = {}
    for name, pctrs in (("bundle", log.pctrs), ("live", found.pctrs)):
        won = log.won(np.arange(len(pctrs)), pctrs)
        figures[name] = {
            "won": len(won) / len(pctrs),
            "pcoc_won": float(pctrs[won].sum()) / int(log.clicks[won].sum()),
            "pcoc_all": float(pctrs.sum()) / int(log.clicks.sum()),
        }
    return figures


def bundle_of(data: Path, schema: str, model: str, share: float, folder: Path) -> Bundle:
    """A bundle of the first part of a log, all but a `share` of it."""
    rest = 1.0 - share
    plan = Plan(
        data=data,
        schema=schema,
        split=(0.8 * rest, 0.1 * rest, 0.1 * rest, share),
        model=model,
        training=TrainChoice(epochs=2),
        work=folder / "work",
        out=folder / "bundle",
    )
    return run(plan, say=lambda line: print(line, file=sys.stderr))


def scored(bundle: Bundle, data: Path, schema: str, share: float, deviation: float) -> Log:
    """The last `share` of a log by time, with the bundle's pCTRs. Raises SystemExit for one without time."""
    found = collect(ReadPlan(data=data, schema=schema, quiet=True), Scorer(bundle))
    if found.timestamps is None:
        raise SystemExit(
            "'schema' must name the column of the log's time (got none); nothing can be replayed"
        )
    order = np.argsort(found.timestamps, kind="stable")
    rows = order[-round(share * len(order)) :]
    rivals = None
    if found.true_pctr is not None:
        factors = np.exp(np.random.default_rng(2).normal(0.0, deviation, len(rows)))
        rivals = found.true_pctr[rows].astype(np.float64) * factors
    return Log(found.timestamps[rows], found.pctr[rows], found.labels[rows] == 1, rivals)


def _told(minutes: float | None, held: float | None) -> str:
    if minutes is None or held is None:
        return "settled: not on the day of the shift"
    return f"settled: {minutes:.0f} minutes after the shift, held: {100 * held:.0f} % of the rest of the day"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both replays and, on the last line, the same as JSON; the exit status."""
    command = Command("live_calibration", __doc__)
    command.add_argument("--data", type=Path, metavar="FILE", help="a log with time [a synthetic one]")
    command.add_argument("--schema", metavar="NAME|FILE", help="how it is read")
    command.add_argument("--bundle", type=Path, metavar="FOLDER", help="serve this one, and train none")
    command.add_argument("--model", default="lr", metavar="NAME", help="which model to train [lr]")
    command.number("--rows", 1_000_000, "of the synthetic log")
    command.number("--rows-per-day", 100_000, "of the synthetic log")
    command.number("--replayed", 60, "percent of the log, the last ones, that are replayed")
    command.number("--shift", 30, "percent of the clicks that are lost from the middle of the replay on")
    command.number("--rival-percent", 50, "deviation of the logarithm of a rival's factor, percent")
    command.number("--delay-seconds", 60, "mean delay of clicks")
    command.number("--click-window-seconds", 600, "the service's setting")
    command.number("--half-life-seconds", Settings().live_half_life_seconds, "the service's setting")
    command.number("--hours", 12, "in a line of the tables")
    options = command.parse_args(arguments)
    if (options.data is None) != (options.schema is None):
        command.error("'--schema' must be given with '--data', and not without")
    settings = Settings(
        click_window_seconds=options.click_window_seconds, live_half_life_seconds=options.half_life_seconds
    )
    share = options.replayed / 100
    with tempfile.TemporaryDirectory() as name:
        folder, data, schema = Path(name), options.data, options.schema
        if data is None:
            data = folder / "log.parquet"
            config = SyntheticConfig(rows=options.rows, rows_per_day=options.rows_per_day)
            schema = str(write_synthetic_log(config, data, report=lambda _: None))
        if options.bundle is None:
            bundle = bundle_of(data, schema, options.model, share, folder)
        else:
            bundle = load_bundle(options.bundle)
        scored_log = scored(bundle, data, schema, share, options.rival_percent / 100)
    log = replace(scored_log, rivals=None)
    shift = int(log.seconds[0] + log.seconds[-1]) // 2
    found = {}
    for title, one, at in (
        ("the log as it is", log, None),
        (
            f"a shift of {options.shift} %",
            log.shifted(shift, options.shift / 100, np.random.default_rng(0)),
            shift,
        ),
    ):
        figures = found["shifted" if at else "plain"] = judged(
            one, settings, options.delay_seconds, at, options.hours
        )
        print(f"\n{title}, {figures['revisions']} revisions")
        rows = [["hour", "rows", "clicks", "PCOC bundle", "PCOC live", "revision"]]
        rows += [[str(cell) for cell in line.values()] for line in figures["by_hour"]]
        print_table(rows)
        losses = ", ".join(f"{name} {loss:.5f}" for name, loss in figures["logloss"].items())
        print(f"LogLoss: {losses}")
        if at is not None:
            print(_told(figures["settled_minutes"], figures["held"]))
    if scored_log.rivals is not None:
        figures = found["auctions"] = auctions(scored_log, settings, options.delay_seconds)
        print("\nwon auctions alone")
        rows = [["pctr", "won", "PCOC won", "PCOC all"]]
        rows += [[name, *(f"{number:.3f}" for number in each.values())] for name, each in figures.items()]
        print_table(rows)
    command.print_json(shift_percent=options.shift, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
