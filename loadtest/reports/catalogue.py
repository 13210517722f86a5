"""`make catalogue`: candidates a second of Bidlight on one core, whose features it knows by id.

Two services of one bundle, one that knows the ads and one that is sent every candidate's features, are asked
by wrk in the forms of the interface, in turns; before that, all must give the same answers. Then the one that
knows the ads is asked in turns with others that read them anew meanwhile. Tables for people, then one line of
JSON for machines.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.load import closed_loop
from loadtest.load.closed_loop import WARM_UP_SECONDS, Case, Key, MeasurementError, Point, run_wrk
from loadtest.load.counts import at_least_one
from loadtest.load.machine import cores, describe_machine, tell_machine
from loadtest.load.server_process import Server, ServerError, running
from loadtest.reports import catalogue_figures
from loadtest.reports.catalogue_figures import KNOWN, REFRESHED, SENT, Way
from loadtest.traffic.answers import WrongAnswer
from loadtest.traffic.bid_requests import SampleError, read_samples
from loadtest.traffic.body_forms import FORMS
from loadtest.traffic.catalogue_requests import Requests
from loadtest.traffic.known_ads import CannotLoad, write_known_ads

REFRESHES = 'bidlight_catalogue_refreshes_total{outcome="ok"}'
# A refresh begins so long after the last one, or after the start: when the first second has warmed up.
REST_SECONDS = WARM_UP_SECONDS
SECONDS_TO_REFRESH = 60.0


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long, and on which cores; `seconds` are a point's, all rounds together."""

    bundle: Path
    known_ads: int
    forms: tuple[str, ...]
    candidates: tuple[int, ...]
    connections: tuple[int, ...]
    seconds: int
    rounds: int
    server_core: int
    client_core: int

    @property
    def seconds_a_round(self) -> int:
        return max(1, round(self.seconds / self.rounds))

    @property
    def cases(self) -> list[Case]:
        return [Case(size, count) for size in self.candidates for count in self.connections]

    @property
    def ways(self) -> tuple[Way, ...]:
        """Every form, with features sent and by id."""
        return tuple(Way(ads, FORMS[name]) for ads in (SENT, KNOWN) for name in self.forms)

    @property
    def refresh_ways(self) -> tuple[Way, Way]:
        """The first form by id, without and with a refresh under way."""
        form = FORMS[self.forms[0]]
        return Way(KNOWN, form), Way(REFRESHED, form)


@dataclass(frozen=True)
class Measured:
    """The points of `ways` and of `refresh_ways`; how many answers were compared, and whose they are."""

    points: Mapping[Key, Point]
    refresh: Mapping[Key, Point]
    rows_compared: int
    bundle: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    plan = _parse(arguments)
    if lack := closed_loop.lack_of_tools():
        return _fail(lack)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which stops the servers, as Ctrl-C does
    busy = tell_machine("candidate")
    try:
        measured = measure(plan)
    except (SampleError, CannotLoad, ServerError, WrongAnswer, MeasurementError) as error:
        return _fail(str(error))
    print(f"bundle {measured.bundle}, {plan.known_ads:,} ads; {measured.rows_compared} answers the same")
    held = f"service on core {plan.server_core}, wrk on core {plan.client_core}"
    print(f"{held}, medians of {plan.rounds} x {plan.seconds_a_round} s\n")
    print(catalogue_figures.table(plan.ways, measured.points))
    print("\nasked in turns, at rest and while the ads are read anew\n")
    print(catalogue_figures.table(plan.refresh_ways, measured.refresh))
    print()
    report = {
        "benchmark": "catalogue",
        "machine": describe_machine(),
        "busy_cores_before": round(busy, 2),
        "bundle": measured.bundle,
        "known_ads": plan.known_ads,
        "points": catalogue_figures.as_json(plan.ways, measured.points),
        "refresh": catalogue_figures.as_json(plan.refresh_ways, measured.refresh),
    }
    print(json.dumps(report))
    return 0


def measure(plan: Plan) -> Measured:
    """All points. Raises SampleError, CannotLoad, ServerError, WrongAnswer, MeasurementError."""
    samples = read_samples(plan.bundle)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        requests = Requests(samples, plan.known_ads, plan.candidates)
        files = requests.write(plan.ways, folder)
        store = write_known_ads(samples, plan.known_ads, plan.bundle, folder).store
        by_ads = {
            SENT: stack.enter_context(_service(plan)),
            KNOWN: stack.enter_context(_service(plan, *_reading(store, 0))),
        }
        servers = {way: replace(by_ads[way.ads], route=way.form.route) for way in plan.ways}
        rows, bundle = requests.check(servers)
        points, failures = closed_loop.measure(
            {str(way): server for way, server in servers.items()},
            plan.cases,
            lambda way, case: files[way, case.candidates],
            seconds=plan.seconds_a_round,
            repetitions=plan.rounds,
            core=plan.client_core,
        )
        for (failed, case), reason in failures.items():
            raise MeasurementError(f"{failed} at {case}: {reason}")
        refresh = measure_refresh(plan, servers[plan.refresh_ways[0]], store, files)
    for (asked, case), point in (*points.items(), *refresh.items()):
        if point.errors:
            raise MeasurementError(f"{asked} must have no errors (got {point.errors} at {case})")
    return Measured(points, refresh, rows, bundle)


def measure_refresh(
    plan: Plan, still: Server, store: str, files: Mapping[tuple[str, int], Path]
) -> dict[Key, Point]:
    """The medians of `still` and of services that refresh, each started for one run.

    A service that is paused in the midst of a refresh rests for as long afterwards, so none is. Raises
    MeasurementError where no refresh was under way.
    """
    known, refreshed = plan.refresh_ways
    found: dict[Key, list[Point]] = {}
    for case in plan.cases * plan.rounds:
        file = files[str(known), case.candidates]
        still.resume()
        run_wrk(still, file, case.connections, WARM_UP_SECONDS, plan.client_core)  # as the other is
        point = run_wrk(still, file, case.connections, plan.seconds_a_round, plan.client_core)
        still.pause()
        found.setdefault((str(known), case), []).append(point)
        with _service(plan, *_reading(store, REST_SECONDS)) as service:
            server = replace(service, route=refreshed.form.route)
            run_wrk(server, file, case.connections, WARM_UP_SECONDS, plan.client_core)
            point = run_wrk(server, file, case.connections, plan.seconds_a_round, plan.client_core)
            _wait_for_refresh(server)
        found.setdefault((str(refreshed), case), []).append(point)
    return {key: closed_loop.median(points) for key, points in found.items()}


def _service(plan: Plan, *options: str) -> AbstractContextManager[Server]:
    """Bidlight; if it is to know ads, it has read them when it is ready."""
    arm = ("--arm", f"control={plan.bundle.resolve()}:1", "--log-level", "warning")
    return running("service", [*arm, *options], core=plan.server_core)


def _reading(store: str, rest_seconds: int) -> tuple[str, ...]:
    """The options of a service that knows the ads in a store, and reads them anew; 0 is never."""
    return "--feature-store", store, "--catalogue-refresh-seconds", str(rest_seconds)


def _wait_for_refresh(server: Server) -> None:
    """Until the refresh that began with the run is over. Raises MeasurementError if none ends."""
    deadline = time.monotonic() + SECONDS_TO_REFRESH
    while refreshes_of(server) < 2:  # the first one was before it was ready
        if time.monotonic() > deadline:
            raise MeasurementError(f"{server.url} must refresh its ads within {SECONDS_TO_REFRESH:g} s")
        time.sleep(0.05)


def refreshes_of(server: Server) -> int:
    """How often the ads were read so far, as /metrics says."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10.0)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(REFRESHES))


def _parse(arguments: Sequence[str] | None) -> Plan:
    allowed = cores()
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.reports.catalogue",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def option(name: str, default: int, what: str) -> None:
        parser.add_argument(name, type=at_least_one, default=default, metavar="N", help=what)

    def counts(name: str, default: list[int], what: str) -> None:
        parser.add_argument(name, type=at_least_one, nargs="+", default=default, metavar="COUNT", help=what)

    parser.add_argument(
        "--bundle", type=Path, default="artifacts/demo", metavar="FOLDER", help="the bundle to serve"
    )
    option("--known-ads", 100_000, "ads that are known")
    forms = "forms of the body; the first is also asked while ads are refreshed"
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=[*FORMS], metavar="FORM", help=forms)
    counts("--candidates", [100], "candidates a request")
    counts("--connections", [1, 8, 32], "connections of wrk")
    option("--seconds", 6, "seconds a point, all rounds together")
    option("--rounds", 3, "rounds: each visits every point")
    for name, core, who in (("--server-core", allowed[0], "services"), ("--client-core", allowed[-1], "wrk")):
        parser.add_argument(name, type=int, choices=allowed, default=core, help=f"core that holds {who}")
    options = parser.parse_args(arguments)
    if options.server_core == options.client_core:
        print(f"note: services and wrk share core {options.server_core}", file=sys.stderr)
    lists = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    return Plan(**{**vars(options), **lists})


def _fail(message: str) -> int:
    print(f"catalogue: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
