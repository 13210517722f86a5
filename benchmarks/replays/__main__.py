"""What live calibration does on logs replayed in the order of time, over HTTP, to a real service.

`python -m benchmarks.replays --log synthetic` trains a bundle on the first part of a log, starts the service
with it and live calibration, and sends the rest in the order of its time: requests with tracking, then
impressions, and clicks as late as they come. The service's wall clock is that of the log, so half-lives and
windows are those of production. What it would answer without is what the bundle says: a service without live
calibration is asked for the first rows, and must agree bit for bit.

It does so with the log as it is, and with a shift of its base rate at half of the replay, down and up, all
at once. `auctions` is a simulated second-price auction on the synthetic log: only what is won is shown. It
writes one page with plots and one JSON of all figures to --out; what other runs have put there stays.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.replays import auctions
from benchmarks.replays.auctions import Auctions, Explored
from benchmarks.replays.judge import figures_of
from benchmarks.replays.log import Log, last_rows
from benchmarks.replays.page import AUCTIONS_HEAD, HEAD, auction_rows, page, summary_rows
from benchmarks.replays.sending import Replay, Replayed, ReplayError, Shows, live_options, service
from benchmarks.replays.sources import SOURCES, Pace, Source
from export.bundles.plan import ReadPlan
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.train.choices import TrainChoice
from loadtest.arguments import a_folder, a_folder_to_write, a_log
from models import MODELS

AUCTIONS, OWN = "auctions", "own"
CHECKED_ROWS = 2_000
FIGURES, PAGE = "figures.json", "index.html"
# Of rivals: how many times what a click is worth they bid, by the median.
STRENGTHS = (0.6, 1.0, 1.6)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What is the same for all logs."""

    model: str
    replayed: float
    shift: float
    delay: float
    click_window: int
    rows: int
    rows_per_day: int
    auction_rows: int
    explored: float
    deviation: float


@dataclass(frozen=True, eq=False)
class Ground:
    """A bundle of the first part of a log, and the rest of it."""

    bundle: Path
    log: Log
    pace: Pace
    folder: Path
    options: _Options

    def replay(self, log: Log, shows: Shows | None = None, options: Sequence[str] | None = None) -> Replayed:
        """Send the log to a service with these options, those of live calibration by default."""
        if options is None:
            options = live_options(self.pace, self.options.click_window)
        with service(self.bundle, self.folder, int(log.seconds[0]), options) as (server, clock):
            return Replay(server, clock, log, self.pace, self.options.delay, shows).run()

    def check_own(self) -> None:
        """Raises ReplayError unless a service without live calibration answers the bundle's own pCTRs."""
        some = self.log.first(CHECKED_ROWS)
        found = self.replay(some, lambda rows, *_: rows[:0], [])
        if not np.array_equal(found.pctrs, some.own):
            differing = int((found.pctrs != some.own).sum())
            raise ReplayError(
                f"a service without live calibration must answer what the bundle says (got {differing} of "
                f"{CHECKED_ROWS} pCTRs that differ)"
            )


def prepared(source: Source, folder: Path, options: _Options) -> Ground:
    """Train the bundle, and read what is to be replayed."""
    rest = 1.0 - options.replayed
    plan = Plan(
        data=source.data,
        schema=source.schema,
        split=(0.8 * rest, 0.1 * rest, 0.1 * rest, options.replayed),
        model=options.model,
        training=TrainChoice(epochs=2),
        work=folder / "work",
        out=folder / "bundle",
    )
    bundle = run(plan, say=_tell)
    read = ReadPlan(data=source.data, schema=source.schema, quiet=True)
    ground = Ground(
        folder / "bundle", last_rows(bundle, read, options.replayed), source.pace, folder, options
    )
    ground.check_own()
    return ground


def replayed(source: Source, folder: Path, options: _Options) -> dict[str, Any]:
    """The figures of a log: as it is, and with a shift down and up."""
    ground = prepared(source, folder, options)
    log = ground.log
    middle = int(log.seconds[len(log) // 2])
    runs = {"as it is": log}
    for sign in (-1, 1) if options.shift else ():
        rng = np.random.default_rng(0)
        runs[f"{sign * options.shift:+.0%}"] = log.shifted(middle, 1.0 + sign * options.shift, rng)
    figures = {}
    for name, one in runs.items():
        _tell(f"{source.title}, {name}: {len(one):,} requests")
        figures[name] = figures_of(one, ground.replay(one))
    pace = source.pace
    about = (
        f"Bundle: {options.model}, of the first {1.0 - options.replayed:.0%}. Half-life "
        f"{pace.half_life / 3600:g} h, a decision each {pace.period / 60:g} min, click window "
        f"{options.click_window / 60:g} min, clicks after {options.delay:g} s by the mean, exponential. "
        "Shifts are in the middle of the rows."
    )
    return {"title": source.title, "about": about, "runs": figures}


def auctioned(source: Source, folder: Path, options: _Options) -> dict[str, Any]:
    """The figures of simulated auctions, by how strong rivals are and by what is learned from."""
    source = replace(source, pace=replace(source.pace, half_life=86_400))
    ground = prepared(source, folder, options)
    log = ground.log.shifted(
        int(ground.log.seconds[len(ground.log) // 3]), 1.0 - options.shift, np.random.default_rng(0)
    )
    live = live_options(ground.pace, options.click_window)
    runs = []
    for strength, kind, learns, share, how in _auction_runs(options.explored):
        _tell(f"auctions, rivals x {strength:g}, {learns}: {len(log):,} requests")
        rivals = Auctions.of(log, strength, options.deviation, how)
        if kind == "none":
            found = rivals.without_feedback()
        else:
            more = ["--explore-share", str(share), "--live-learn-from", "explored"] if share else []
            found = ground.replay(log, rivals.shown, [*live, *more])
        runs.append({"strength": strength, "kind": kind, "learns": learns, **auctions.judged(log, found)})
    about = (
        f"A rival bids the true click probability times a lognormal factor (deviation "
        f"{options.deviation:g}, median as stated), and what bids less is not shown. After a third of the "
        f"replay the base rate falls by {options.shift:.0%}. PCOC is of answered over true probabilities in "
        "the last third. Half-life 24 h."
    )
    hours = float(log.seconds[-1] - log.seconds[0]) / 3600
    return {"about": about, "hours": hours, "runs": runs}


def _auction_runs(explored: float) -> Iterator[tuple[float, str, str, float, Explored]]:
    """Strength of the rivals, what is learned from in a word and in words, share that is explored, and
    how."""
    for strength in STRENGTHS:
        yield strength, "none", "nothing: the bundle alone", 0.0, "ordinary"
        yield strength, "all", "all that was won", 0.0, "ordinary"
        yield strength, "explored", f"{explored:.0%} explored, always won", explored, "wins"
        if strength == 1.0:
            yield strength, "random", f"{explored:.0%} explored, random bids", explored, "random"
            yield strength, "less", f"{explored / 4:.1%} explored, always won", explored / 4, "wins"


def _kept(out: Path, new: dict[str, Any], command: str) -> dict[str, Any]:
    """Write page and figures, with those of other runs, which may have come meanwhile; all figures."""
    figures = out / FIGURES
    found: dict[str, Any] = (
        json.loads(figures.read_text()) if figures.exists() else {"logs": {}, "commands": []}
    )
    logs = found["logs"] | new.get("logs", {})
    commands = [*dict.fromkeys([*found["commands"], command])]
    found |= {**new, "logs": logs, "benchmark": "replays", "machine": machine(), "commands": commands}
    figures.write_text(json.dumps(found) + "\n", encoding="utf-8")
    (out / PAGE).write_text(page(found), encoding="utf-8")
    return found


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command() -> Command:
    command = Command("replays", __doc__)
    command.add_argument(
        "--log",
        nargs="+",
        choices=[*SOURCES, AUCTIONS, OWN],
        default=["synthetic"],
        help="which ones; own is that of --data [synthetic]",
    )
    command.add_argument(
        "--out",
        type=a_folder_to_write,
        default=Path("artifacts/replays"),
        metavar="FOLDER",
        help="for page and figures [artifacts/replays]",
    )
    command.add_argument(
        "--real",
        type=a_folder,
        default=Path(os.environ.get("BIDLIGHT_DATA", ".")),
        metavar="FOLDER",
        help="where the real logs lie [BIDLIGHT_DATA]",
    )
    command.add_argument("--data", type=a_log, metavar="FILE", help="a log with time")
    command.add_argument("--schema", metavar="NAME|FILE", help="how it is read")
    about = "which model to train [lr]"
    command.add_argument("--model", choices=[*MODELS], default="lr", metavar="NAME", help=about)
    command.number("--rows", 400_000, "of the synthetic log")
    command.number("--rows-per-day", 50_000, "of the synthetic log")
    command.number("--auction-rows", 200_000, "of the synthetic log for auctions")
    command.number("--replayed", 60, "percent of the log, the last ones, that are replayed")
    command.number(
        "--shift", 30, "percent by which the base rate falls and rises; 0: as it is alone", least=0
    )
    command.number("--delay-seconds", 60, "mean delay of clicks")
    command.number("--click-window-seconds", 600, "the service's setting")
    command.number("--half-life-seconds", 21_600, "the service's setting, of --data")
    command.number("--period-seconds", 300, "how often the service decides, of --data")
    command.number("--explore-percent", 10, "of the requests of auctions that are explored")
    command.number("--rival-percent", 50, "deviation of the logarithm of a rival's factor, percent")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays the logs, writes page and figures, and prints tables and one line of JSON; the exit status."""
    command = _command()
    given = command.parse_args(arguments)
    if (given.data is None) != (given.schema is None) or (given.data is None) == (OWN in given.log):
        command.error("'--data' and '--schema' must be given with '--log own', and not without")
    options = _Options(
        model=given.model,
        replayed=given.replayed / 100,
        shift=given.shift / 100,
        delay=float(given.delay_seconds),
        click_window=given.click_window_seconds,
        rows=given.rows,
        rows_per_day=given.rows_per_day,
        auction_rows=given.auction_rows,
        explored=given.explore_percent / 100,
        deviation=given.rival_percent / 100,
    )
    words = sys.argv[1:] if arguments is None else arguments
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.log:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if name == AUCTIONS:
                source = SOURCES["synthetic"](given.real, folder, options.auction_rows, options.rows_per_day)
                new = {AUCTIONS: auctioned(source, folder, options)}
            else:
                pace = Pace(given.half_life_seconds, given.period_seconds)
                source = (
                    Source(given.data.name, given.data, given.schema, pace)
                    if name == OWN
                    else SOURCES[name](given.real, folder, options.rows, options.rows_per_day)
                )
                new = {"logs": {name: replayed(source, folder, options)}}
        found = _kept(given.out, new, shlex.join(["python", "-m", "benchmarks.replays", *words]))
    for head, rows in ((HEAD, [*summary_rows(found)]), (AUCTIONS_HEAD, [*auction_rows(found)])):
        if rows:
            print_table([head, *rows])
            print()
    print(f"wrote {given.out / PAGE}")
    command.print_json(**{key: found[key] for key in ("logs", AUCTIONS) if key in found})
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
