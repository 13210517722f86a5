"""`make catalogue`: measures how many candidates a second one core scores when ads are known by id.

Two services serve one bundle: one has the ads in its catalogue, the other is sent the features of every
candidate. Both must first give the same answers. wrk then measures them in turns, in each form of the
interface, and after that the one with the catalogue in turns with services that refresh their catalogue
meanwhile. Prints tables, then one line of JSON.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.arguments import at_least_one, ended, failed
from loadtest.load import closed_loop
from loadtest.load.closed_loop import Case, Key, MeasurementError, Point, run_wrk, warm_up
from loadtest.processes.machine import describe_machine, missing_tools
from loadtest.processes.server import Server, ServerError, running
from loadtest.reports import catalogue_figures
from loadtest.reports.catalogue_figures import KNOWN, REFRESHED, SENT, Way
from loadtest.reports.catalogue_requests import Requests
from loadtest.reports.command import Command, print_machine, stop_servers_on_sigterm
from loadtest.traffic.answers import WrongAnswer
from loadtest.traffic.bid_requests import SampleError, read_samples
from loadtest.traffic.body_forms import FORMS
from loadtest.traffic.known_ads import CannotLoad, write_known_ads

REFRESHES = 'bidlight_catalogue_refreshes_total{outcome="ok"}'
# Between refreshes, and between the start and the first refresh: the warm-up is over by then.
REST_SECONDS = 1
SECONDS_TO_REFRESH = 60.0


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long, and on which cores; `seconds` is the time of a point in all rounds."""

    bundle: Path
    known_ads: int
    forms: tuple[str, ...]
    candidates: tuple[int, ...]
    connections: tuple[int, ...]
    seconds: int
    rounds: int
    warm_up: int
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
        """Every form, with features sent and with ads by id."""
        return tuple(Way(ads, FORMS[name]) for ads in (SENT, KNOWN) for name in self.forms)

    @property
    def refresh_ways(self) -> tuple[Way, Way]:
        """The first form with ads by id, without and with a refresh under way."""
        form = FORMS[self.forms[0]]
        return Way(KNOWN, form), Way(REFRESHED, form)


@dataclass(frozen=True)
class Measured:
    """The points of `ways` and of `refresh_ways`, how many answers were compared, and the bundle's id."""

    points: Mapping[Key, Point]
    refresh: Mapping[Key, Point]
    rows_compared: int
    bundle: str


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    plan = _parse(arguments)
    if lack := missing_tools():
        return failed("catalogue", lack)
    stop_servers_on_sigterm()
    busy = print_machine("candidate")
    try:
        measured = measure(plan)
    except (CannotLoad, ServerError, WrongAnswer, MeasurementError) as error:
        return failed("catalogue", error)
    print(f"bundle {measured.bundle}, {plan.known_ads:,} ads; {measured.rows_compared} answers the same")
    held = f"service on core {plan.server_core}, wrk on core {plan.client_core}"
    print(f"{held}, medians of {plan.rounds} x {plan.seconds_a_round} s\n")
    print(catalogue_figures.table(plan.ways, measured.points))
    print("\nin turns, without and with a refresh of the catalogue under way\n")
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
            warm_up_seconds=plan.warm_up,
            core=plan.client_core,
        )
        closed_loop.check_all_answered(points, failures)
        refresh = measure_refresh(plan, servers[plan.refresh_ways[0]], store, files)
    closed_loop.check_all_answered(refresh, {})
    return Measured(points, refresh, rows, bundle)


def measure_refresh(
    plan: Plan, still: Server, store: str, files: Mapping[tuple[str, int], Path]
) -> dict[Key, Point]:
    """The medians of `still` and of services that refresh, each started for one run.

    They are never paused: a pause during a refresh would lengthen the rest after it. Raises MeasurementError
    where no refresh was under way.
    """
    known, refreshed = plan.refresh_ways
    found: dict[Key, list[Point]] = {}
    for case in plan.cases * plan.rounds:
        file = files[str(known), case.candidates]
        still.resume()
        warm_up(still, file, case.connections, plan.warm_up, plan.client_core)  # as the other is
        point = run_wrk(still, file, case.connections, plan.seconds_a_round, plan.client_core)
        still.pause()
        found.setdefault((str(known), case), []).append(point)
        with _service(plan, *_reading(store, REST_SECONDS)) as service:
            server = replace(service, route=refreshed.form.route)
            warm_up(server, file, case.connections, plan.warm_up, plan.client_core)
            point = run_wrk(server, file, case.connections, plan.seconds_a_round, plan.client_core)
            _wait_for_refresh(server)
        found.setdefault((str(refreshed), case), []).append(point)
    return {key: closed_loop.median(points) for key, points in found.items()}


def _service(plan: Plan, *options: str) -> AbstractContextManager[Server]:
    """Bidlight. It is ready once it has read its catalogue, if `options` give it one."""
    arm = ("--arm", f"control={plan.bundle.resolve()}:1", "--log-level", "warning")
    return running("service", [*arm, *options], core=plan.server_core)


def _reading(store: str, rest_seconds: int) -> tuple[str, ...]:
    """The options of a service with a catalogue from a store, refreshed after a rest; 0 is never."""
    return "--feature-store", store, "--catalogue-refresh-seconds", str(rest_seconds)


def _wait_for_refresh(server: Server) -> None:
    """Wait until the refresh that began with the run is over. Raises MeasurementError if none ends."""
    deadline = time.monotonic() + SECONDS_TO_REFRESH
    while refreshes_of(server) < 2:  # the first one came before it was ready
        if time.monotonic() > deadline:
            raise MeasurementError(f"{server.url} must refresh its ads within {SECONDS_TO_REFRESH:g} s")
        time.sleep(0.05)


def refreshes_of(server: Server) -> int:
    """How often the catalogue was read so far, from /metrics."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10.0)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(REFRESHES))


def _parse(arguments: Sequence[str] | None) -> Plan:
    command = Command("loadtest.reports.catalogue", __doc__)
    add = command.add_argument
    command.bundle("the bundle to serve")
    command.number("--known-ads", 100_000, "ads in the catalogue")
    forms = "forms of the body; the first is also measured while the catalogue is refreshed"
    add("--forms", choices=FORMS, nargs="+", default=[*FORMS], metavar="FORM", help=forms)
    for name, default, about in (
        ("--candidates", [100], "candidates a request"),
        ("--connections", [1, 8, 32], "connections of wrk"),
    ):
        add(name, type=at_least_one, nargs="+", default=default, metavar="COUNT", help=about)
    command.number("--seconds", 6, "seconds a point, all rounds together")
    command.number("--rounds", 3, "rounds: each measures every point")
    command.warm_up()
    command.cores("the services", "wrk")
    options = vars(command.parsed(arguments))
    lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    return Plan(**{**options, **lists})


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
