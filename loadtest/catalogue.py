"""`make catalogue`: candidates a second of Bidlight on one core, whose features it knows by id.

Three services of one bundle: one that knows the ads, one that also reads them anew all the time, and one that
is sent every candidate's features. Each is asked by wrk in the forms of the interface, in turns; before that,
all must give the same answers. A table for people, then one line of JSON for machines.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from loadtest import catalogue_figures, closed_loop
from loadtest.answers import Answer, WrongAnswer, ask, compare
from loadtest.bid_requests import BidRequestMaker, SampleError, read_samples
from loadtest.body_forms import FORMS, Request
from loadtest.catalogue_figures import KNOWN, REFRESHED, SENT, Way
from loadtest.closed_loop import BODIES, Case, Key, MeasurementError, Point
from loadtest.known_ads import CannotLoad, KnownAds, draw_ads, write_known_ads
from loadtest.machine import busy_cores, cores, describe_machine
from loadtest.server_process import Server, ServerError, running

REFRESHES = 'bidlight_catalogue_refreshes_total{outcome="ok"}'
CHECKED_BODIES, CHECKED_AT_ONCE = 16, 4


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
    refresh_seconds: int
    server_core: int
    client_core: int

    @property
    def seconds_a_round(self) -> int:
        return max(1, round(self.seconds / self.rounds))

    @property
    def ways(self) -> tuple[Way, ...]:
        """Every form with features sent and by id; the first one also while the ads are refreshed."""
        forms = [FORMS[name] for name in self.forms]
        sent, known = ([Way(ads, form) for form in forms] for ads in (SENT, KNOWN))
        return (*sent, *known, Way(REFRESHED, forms[0]))


@dataclass(frozen=True)
class Measured:
    """The points; how many answers were compared, and the bundle that gave them; refreshes while asked."""

    points: Mapping[Key, Point]
    rows_compared: int
    bundle: str
    refreshes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    plan = _parse(arguments)
    missing = closed_loop.missing(["wrk", "taskset"])
    if missing:
        return _fail(f"{' and '.join(missing)} must be installed; Debian's packages are wrk and util-linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which stops the servers, as Ctrl-C does
    busy = busy_cores()
    print(f"{describe_machine()}; {busy:.1f} cores were busy before")
    if busy > 0.3:
        print("note: other work disturbs what follows; processor time a candidate suffers least")
    try:
        measured = measure(plan)
    except (SampleError, CannotLoad, ServerError, WrongAnswer, MeasurementError) as error:
        return _fail(str(error))
    print(f"bundle {measured.bundle}, {plan.known_ads:,} ads; {measured.rows_compared} answers the same")
    held = f"service on core {plan.server_core}, wrk on core {plan.client_core}"
    print(f"{held}, medians of {plan.rounds} x {plan.seconds_a_round} s\n")
    print(catalogue_figures.table(plan.ways, measured.points))
    times = f"{measured.refreshes} refreshes while it was asked"
    print(f"\n{REFRESHED}: ads are read anew {plan.refresh_seconds} s after they were read; {times}\n")
    report = {
        "benchmark": "catalogue",
        "machine": describe_machine(),
        "busy_cores_before": round(busy, 2),
        "bundle": measured.bundle,
        "known_ads": plan.known_ads,
        "refreshes": measured.refreshes,
        "points": catalogue_figures.as_json(plan.ways, measured.points),
    }
    print(json.dumps(report))
    return 0


def measure(plan: Plan) -> Measured:
    """All points. Raises SampleError, CannotLoad, ServerError, WrongAnswer, MeasurementError."""
    samples = read_samples(plan.bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = draw_requests(samples, plan)
        files = write_files(plan.ways, requests, folder)
        known_ads = write_known_ads(samples, plan.known_ads, plan.bundle, folder)
        with services(plan, known_ads) as by_ads:
            servers = {str(way): replace(by_ads[way.ads], route=way.form.route) for way in plan.ways}
            rows, bundle = check_answers(plan.ways, servers, requests)
            before = refreshes_of(by_ads[REFRESHED])
            points, failures = closed_loop.measure(
                servers,
                [Case(size, count) for size in plan.candidates for count in plan.connections],
                lambda way, case: files[way, case.candidates],
                seconds=plan.seconds_a_round,
                repetitions=plan.rounds,
                core=plan.client_core,
            )
            by_ads[REFRESHED].resume()
            refreshes = refreshes_of(by_ads[REFRESHED]) - before
    for (way, case), reason in failures.items():
        raise MeasurementError(f"{way} at {case}: {reason}")
    for (way, case), point in points.items():
        if point.errors:
            raise MeasurementError(
                f"{way} must be answered with success (got {point.errors} errors at {case})"
            )
    return Measured(points, rows, bundle, refreshes)


Requests = dict[int, tuple[list[Request], list[Request]]]


def draw_requests(samples: Sequence[dict[str, dict[str, object]]], plan: Plan) -> Requests:
    """Of each size the requests by id alone, and the same ones with every candidate's features."""
    maker = BidRequestMaker(samples, known_ads=plan.known_ads)
    features = {ad["id"]: ad["features"] for ad in draw_ads(samples, plan.known_ads)}
    requests = {}
    for size in plan.candidates:
        by_id = [json.loads(maker.make(size).body) for _ in range(BODIES)]
        requests[size] = (
            by_id,
            [
                {**each, "candidates": [{**ad, "features": features[ad["id"]]} for ad in each["candidates"]]}
                for each in by_id
            ],
        )
    return requests


def write_files(ways: Sequence[Way], requests: Requests, folder: Path) -> dict[tuple[str, int], Path]:
    """A file of bodies for each way and size."""
    files = {}
    for number, way in enumerate(ways):
        for size, (by_id, with_features) in requests.items():
            file = files[str(way), size] = folder / f"bodies.{number}.{size}.frames"
            several = with_features if way.ads == SENT else by_id
            closed_loop.write_frames((way.form.body_of(each) for each in several), file)
    return files


@contextmanager
def services(plan: Plan, known_ads: KnownAds) -> Iterator[dict[str, Server]]:
    """The three services, ready, all on the same core; who knows the ads has read them by then."""
    store = ("--feature-store", known_ads.store, "--catalogue-refresh-seconds")
    options = {KNOWN: (*store, "0"), REFRESHED: (*store, str(plan.refresh_seconds)), SENT: ()}
    arm = ("--arm", f"control={plan.bundle.resolve()}:1", "--log-level", "warning")
    with ExitStack() as stack:
        yield {
            ads: stack.enter_context(running("service", [*arm, *more], core=plan.server_core))
            for ads, more in options.items()
        }


def check_answers(ways: Sequence[Way], servers: Mapping[str, Server], requests: Requests) -> tuple[int, str]:
    """How many answers were compared, and the bundle that gave them.

    Raises WrongAnswer unless all are those to features that are sent, asked one after the other.
    """
    rows, bundle = 0, ""
    for by_id, with_features in requests.values():
        expected: list[Answer] = []
        for way in ways:
            several = with_features if way.ads == SENT else by_id
            bodies = [way.form.body_of(each) for each in several[:CHECKED_BODIES]]
            found = ask(servers[str(way)], bodies, CHECKED_AT_ONCE if expected else 1)
            expected = expected or found
            rows += compare(expected, found)
        bundle = str(expected[0]["bundle"])
    return rows, bundle


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
        prog="python -m loadtest.catalogue",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def option(name: str, default: int, what: str) -> None:
        parser.add_argument(name, type=_at_least_one, default=default, metavar="N", help=what)

    def counts(name: str, default: list[int], what: str) -> None:
        parser.add_argument(name, type=_at_least_one, nargs="+", default=default, metavar="COUNT", help=what)

    parser.add_argument(
        "--bundle", type=Path, default="artifacts/demo", metavar="FOLDER", help="the bundle to serve"
    )
    option("--known-ads", 100_000, "ads that are known")
    forms = "forms of the body; the first is also asked while the ads are refreshed"
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=[*FORMS], metavar="FORM", help=forms)
    counts("--candidates", [100], "candidates a request")
    counts("--connections", [1, 8, 32], "connections of wrk")
    option("--seconds", 6, "seconds a point, all rounds together")
    option("--rounds", 3, "rounds: each visits every point")
    option("--refresh-seconds", 1, "rest between two refreshes of the ads, where they are refreshed")
    for name, core, who in (("--server-core", allowed[0], "services"), ("--client-core", allowed[-1], "wrk")):
        parser.add_argument(name, type=int, choices=allowed, default=core, help=f"core that holds {who}")
    options = parser.parse_args(arguments)
    if options.server_core == options.client_core:
        print(f"note: services and wrk share core {options.server_core}", file=sys.stderr)
    lists = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    return Plan(**{**vars(options), **lists})


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 (got {text!r})")
    return int(text)


def _fail(message: str) -> int:
    print(f"catalogue: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
