"""`make bench`: measures a bundle served by Bidlight and by a naive service, with Locust and wrk over HTTP.

Both services must first give the same answers. Locust then sends Bidlight a mix of sizes as an ad server
would, and checks every answer (in Python, so its own time is in its latencies). wrk sends to both services as
fast as they answer; they run on one core and wrk on another. Prints tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.arguments import counts, ended, failed
from loadtest.load import closed_loop
from loadtest.load.closed_loop import Case, Key, MeasurementError, Point
from loadtest.load.latency import format_summary
from loadtest.processes.machine import describe_machine, missing_tools, pinned
from loadtest.processes.server import REPOSITORY, Server, ServerError, running
from loadtest.reports.command import Command, print_machine
from loadtest.reports.pairs import ratios, table
from loadtest.traffic.answers import WrongAnswer, ask, compare
from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, parse_sizes, read_samples
from loadtest.traffic.body_files import write_bodies

OURS, NAIVE = "bidlight", "naive"


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long, and on which cores."""

    bundle: Path
    seconds: int
    repetitions: int
    warm_up: int
    users: int
    sizes: str
    candidates: tuple[int, ...]
    connections: tuple[int, ...]
    server_core: int
    client_core: int


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    plan = _parse(arguments)
    busy = print_machine()
    try:
        maker = BidRequestMaker(read_samples(plan.bundle))
        with _both(plan) as servers:
            compared = check_answers(servers, maker, plan.candidates)
            print(f"bundle {compared['bundle']}, {compared['rows']} answers the same from both")
            locust = run_locust(plan, servers[OURS].url)
            points = run_wrk(plan, servers, maker)
    except (ServerError, MeasurementError, WrongAnswer) as error:
        return failed("bench", error)
    print(json.dumps(report(plan, busy, compared["bundle"], locust, points)))
    return 0


@contextmanager
def _both(plan: Plan) -> Iterator[dict[str, Server]]:
    """Bidlight and the naive service, ready, on the same core: the idle one takes no time."""
    bundle = str(plan.bundle.resolve())
    with (
        running(
            "service", ["--arm", f"control={bundle}:1", "--log-level", "warning"], core=plan.server_core
        ) as ours,
        running("loadtest.rivals.servers.naive", ["--bundle", bundle], core=plan.server_core) as naive,
    ):
        yield {OURS: ours, NAIVE: naive}


def check_answers(
    servers: dict[str, Server], maker: BidRequestMaker, sizes: Sequence[int], requests: int = 10
) -> dict[str, Any]:
    """Send the same requests to both servers. Raises WrongAnswer unless pCTRs and bids agree."""
    bodies = [maker.make(size).body for size in sizes for _ in range(requests)]
    expected = ask(servers[OURS], bodies)
    rows = compare(expected, ask(servers[NAIVE], bodies))
    return {"bundle": expected[0]["bundle"], "rows": rows}


def run_locust(plan: Plan, url: str) -> dict[str, Any]:
    """Locust headless in a process of its own; prints the latency table and returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "report.json"
        command = [*pinned(plan.client_core), sys.executable, "-m", "locust"]
        command += ["-f", "loadtest/locustfile.py", "--headless"]
        command += [f"--host={url}", f"--users={plan.users}", f"--spawn-rate={plan.users}"]
        command += [f"--run-time={plan.seconds}s", f"--sizes={plan.sizes}", f"--report-json={figures}"]
        command += [f"--bundle={plan.bundle.resolve()}", "--slo-error-rate=0"]
        command += ["--only-summary", "--loglevel=WARNING"]
        run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise MeasurementError(f"locust failed: {(run.stdout + run.stderr).strip()[-1500:]}")
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    print(f"\nLocust, {plan.users} users, {plan.seconds} s, candidates a request {plan.sizes}")
    print(format_summary(found["sizes"]))
    return found


def run_wrk(plan: Plan, servers: dict[str, Server], maker: BidRequestMaker) -> dict[Key, Point]:
    """wrk against both services; prints the table. Without wrk or taskset, says so and measures nothing."""
    if lack := missing_tools():
        print(f"\nno closed-loop figures: {lack}")
        return {}
    cases = [Case(size, connections) for size in plan.candidates for connections in plan.connections]
    seconds = max(1, round(plan.seconds / plan.repetitions))
    with tempfile.TemporaryDirectory() as folder:
        bodies = write_bodies(maker, plan.candidates, Path(folder))
        points, failures = closed_loop.measure(
            servers,
            cases,
            lambda _, case: bodies[case.candidates],
            seconds=seconds,
            repetitions=plan.repetitions,
            warm_up_seconds=plan.warm_up,
            core=plan.client_core,
        )
    closed_loop.check_all_answered(points, failures)
    cores = f"services on core {plan.server_core}, wrk on core {plan.client_core}"
    print(f"\nwrk, {cores}, medians of {plan.repetitions} x {seconds} s")
    print(table(points, OURS, NAIVE))
    return points


def report(
    plan: Plan,
    busy: float,
    bundle: str,
    locust: dict[str, Any],
    points: Mapping[Key, Point],
) -> dict[str, Any]:
    """All figures as one JSON value."""
    return {
        "benchmark": "bidlight",
        "machine": describe_machine(),
        "busy_cores_before": round(busy, 2),
        "bundle": bundle,
        "seconds_a_point": plan.seconds,
        "locust": {"users": plan.users, "sizes": locust["sizes"]},
        "wrk": [
            {"server": name, **asdict(case), **_rounded(asdict(point))}
            for (name, case), point in points.items()
        ],
        "over_naive": [
            {**asdict(case), **_rounded({"requests_a_second": rate, "cpu": cpu})}
            for case in dict.fromkeys(case for _, case in points)
            for rate, cpu in [ratios(points, case, OURS, NAIVE)]
        ],
    }


def _rounded(figures: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if figure is None else round(figure, 3) for name, figure in figures.items()}


def _sizes(text: str) -> str:
    try:
        parse_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parse(arguments: Sequence[str] | None) -> Plan:
    command = Command("loadtest.reports.bench", __doc__)
    add = command.add_argument
    command.bundle("the bundle that both serve")
    command.number("--seconds", 10, "seconds a point, all repetitions together")
    command.number("--repetitions", 3, "repetitions a point, interleaved")
    command.warm_up()
    command.number("--users", 8, "Locust's users, each with one request under way")
    sizes = "candidates a request of Locust"
    add("--sizes", type=_sizes, default="1:6,10:3,100:1", metavar="COUNT:WEIGHT,...", help=sizes)
    add("--candidates", type=counts, default="1,100", metavar="COUNT,...", help="candidates a request of wrk")
    add("--connections", type=counts, default="1,32", metavar="COUNT,...", help="connections of wrk")
    command.cores("the services", "Locust and wrk")
    return Plan(**vars(command.parsed(arguments)))


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
