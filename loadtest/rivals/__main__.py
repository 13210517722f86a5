"""`make rivals`: tables for people, plots, then one line of JSON for machines."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadtest.arguments import ended, failed
from loadtest.processes.machine import describe_machine, missing_tools
from loadtest.reports.command import print_machine, stop_servers_on_sigterm
from loadtest.rivals import figures, open_loop, plots
from loadtest.rivals.figures import Best
from loadtest.rivals.open_loop import Share
from loadtest.rivals.plan import Plan, parse
from loadtest.rivals.runner import Measured, Reference, measure_closed, started
from loadtest.traffic.answers import WrongAnswer
from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, read_samples
from loadtest.traffic.body_files import write_bodies
from loadtest.traffic.known_ads import CannotLoad, write_known_ads


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    plan = parse(arguments)
    if lack := missing_tools():
        return failed("rivals", lack)
    stop_servers_on_sigterm()
    busy = print_machine()
    try:
        measured, best, shares = measure(plan)
    except (CannotLoad, WrongAnswer, LookupError) as error:
        return failed("rivals", error)
    ratios = figures.ratios(best)
    _print_tables(plan, measured, best, ratios, shares)
    result = report(plan, busy, measured, best, ratios, shares)
    plan.out.mkdir(parents=True, exist_ok=True)
    every = [Best(entry, case, point) for (entry, case), point in measured.points.items()]
    settings = [figures.as_json(each) for each in every]
    (plan.out / "rivals.json").write_text(json.dumps({**result, "settings": settings}, indent=1) + "\n")
    for file in plots.write(plan.out, best, shares):
        print(f"plot: {file}")
    print(json.dumps(result))
    return 0 if best else 1


def measure(plan: Plan) -> tuple[Measured, list[Best], list[Share]]:
    """All that the plan asks for. Raises CannotLoad, and WrongAnswer if the first server does not answer."""
    measured, shares = Measured(), []
    samples, known_ads = read_samples(plan.bundle), None
    maker = BidRequestMaker(samples, known_ads=plan.known_count)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        if plan.known_count is not None:
            _tell(f"{plan.known_count:,} ads into a file and a feature store")
            known_ads = write_known_ads(samples, plan.known_count, plan.bundle, folder)
        servers = stack.enter_context(started(plan, maker.make(1).body, measured, _tell, known_ads))
        files = write_bodies(maker, plan.candidates, folder)
        if servers:
            reference = Reference(servers, files, measured)
            measure_closed(plan, servers, files, reference, measured, _tell)
        best = figures.best_of(measured.points)
        if plan.open_loop:
            shares = open_loop.measure_open(plan, servers, files, best, measured, _tell)
    return measured, best, shares


def report(
    plan: Plan,
    busy: float,
    measured: Measured,
    best: Sequence[Best],
    ratios: dict[str, list[figures.Ratio]],
    shares: Sequence[Share],
) -> dict[str, Any]:
    """All figures as one JSON value; `points` has the best setting of each contender."""
    return {
        "benchmark": "rivals",
        "machine": describe_machine(),
        "busy_cores_before": round(busy, 2),
        "bundle": measured.bundle,
        "ads": plan.ads,
        "known_ads": plan.known_count,
        "rows_compared": measured.rows_compared,
        "points": [figures.as_json(each) for each in best],
        "ratios": [
            figures.ratio_as_json(name, ratio) for name, several in ratios.items() for ratio in several
        ],
        "open_loop": [open_loop.as_json(share) for share in shares],
        "left_out": measured.left_out,
    }


def _print_tables(
    plan: Plan,
    measured: Measured,
    best: Sequence[Best],
    ratios: dict[str, list[figures.Ratio]],
    shares: Sequence[Share],
) -> None:
    if best:
        print(f"\nbundle {measured.bundle}; {measured.rows_compared} answers equal from all")
        if plan.known_count is not None:
            print(f"candidates by id alone, of {plan.known_count:,} ads known to all; requests have no user")
        cores = f"servers on core {plan.server_core}, wrk on core {plan.client_core}"
        print(f"{cores}, medians of {plan.rounds} x {plan.seconds_a_round} s, the best setting of each\n")
        print(figures.table(best))
    if ratios:
        print(f"\n{figures.OURS}'s requests a second over (and its p99 over)\n")
        print(figures.ratio_table(ratios))
        print(f"\n{figures.SAME_GRAPH}")
    if shares:
        seconds = f"{plan.rounds} x {plan.seconds_a_round} s"
        print(f"\nopen loop, Poisson arrivals, latency from when each request was due; {seconds}\n")
        print(open_loop.table(shares))
    if any(share.limited_by_client for share in shares):
        print("* the client was late: these latencies are partly its own")
    for each in measured.left_out:
        print(f"\nleft out: {each['contender']}: {each['reason']}")
    print()


_STARTED = time.monotonic()


def _tell(what: str) -> None:
    """Print progress to stderr, apart from the results."""
    print(f"[{time.monotonic() - _STARTED:5.0f} s] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
