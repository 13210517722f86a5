"""What live calibration learns from won auctions alone, and from a share that is explored, in seconds.

`python -m benchmarks.selection` draws auctions without a log and without a service: the bundle lacks what a
rival knows, the rival bids as in `benchmarks.replays.auctions`, and the base rate falls after a third. Steps
of live calibration are of 500 requests. PCOC is of the last third, answered over true probabilities.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.command import Command, ended, print_table
from benchmarks.replays.auctions import Auctions, Explored, judged
from benchmarks.replays.log import Log
from benchmarks.replays.sending import Replayed, Served
from service.calibration.counts import count
from service.calibration.decision import LiveCalibration, Rules
from service.feedback.tokens import log_odds

STEP, STEP_SECONDS, HALF_LIFE = 500, 1_000.0, 86_400.0
LOW, HIGH = 1e-6, 1.0 - 1e-6


def drawn(rows: int, shift: float) -> Log:
    """A calibrated bundle of which each row's log-odds lack a normal error, and a world that changes."""
    rng = np.random.default_rng(0)
    known = rng.normal(-2.6, 0.8, rows)
    true = 1.0 / (1.0 + np.exp(-(known + rng.normal(0.0, 0.5, rows))))
    own = 1.0 / (1.0 + np.exp(-known))
    own *= true.mean() / own.mean()
    log = Log(2 * np.arange(rows), [], rng.random(rows) < true, own, true)
    return log.shifted(int(log.seconds[rows // 3]), 1.0 - shift, rng)


def bid(log: Log, auctions: Auctions, share: float, *, from_all: bool) -> Replayed:
    """Answer each step, learn from what is won in it, or from what of that is explored."""
    live, rng = LiveCalibration(Rules(half_life_seconds=HALF_LIFE)), np.random.default_rng(3)
    answered, won = log.own.copy(), np.zeros(len(log), bool)
    for rows in np.array_split(np.arange(len(log)), len(log) // STEP):
        answered[rows] = live.correction.pctrs(log.own[rows], LOW, HIGH)
        is_explored = rng.random(len(rows)) < share
        shown = auctions.shown(rows, answered[rows], is_explored)
        won[shown] = True
        learned = shown if from_all else shown[is_explored[shown - rows[0]]]
        odds, clicked = log_odds(log.own[learned]), log.clicks[learned]
        events = count(odds, np.zeros(len(learned), bool))
        live.step(events + count(odds[clicked], np.ones(int(clicked.sum()), bool)), STEP_SECONDS)
    return Replayed(answered, won, [Served(0), Served(0, live.revision, live.correction)], {}, 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and one line of JSON; the exit status."""
    command = Command("selection", __doc__)
    command.number("--rows", 384_000, "auctions")
    command.number("--shift", 30, "percent by which the base rate falls", least=0)
    options = command.parse_args(arguments)
    log = drawn(options.rows, options.shift / 100)
    ways: list[tuple[str, float, Explored]] = [
        ("nothing", 0.0, "ordinary"),
        ("all that was won", 0.0, "ordinary"),
        ("10 % explored, always won", 0.1, "wins"),
        ("10 % explored, random bids", 0.1, "random"),
        ("2.5 % explored, always won", 0.025, "wins"),
    ]
    runs: list[dict[str, Any]] = []
    for strength in (0.6, 1.0, 1.6):
        for learns, share, how in ways:
            auctions = Auctions.of(log, strength, 0.5, how)
            found = (
                auctions.without_feedback()
                if learns == "nothing"
                else bid(log, auctions, share, from_all=share == 0.0)
            )
            runs.append({"rivals": strength, "learns": learns, **judged(log, found)})
    rows = [["rivals", "learns from", "won", "PCOC won", "lost", "all"]]
    keys = ("won", "pcoc_won", "pcoc_lost", "pcoc_all")
    rows += [[f"x {run['rivals']:g}", run["learns"], *(f"{run[key]:.3f}" for key in keys)] for run in runs]
    print_table(rows)
    command.print_json(rows=options.rows, runs=runs)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
