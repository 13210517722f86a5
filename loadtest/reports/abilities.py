"""What each ability of the service costs: requests a second with it and without, alternately, by wrk.

    python -m loadtest.reports.abilities [--abilities tracking all]

Each ability is a service of its own on one core, `off` has none, not even metrics; wrk is on another. Traces
go to a collector that only reads them. Nothing is reported back: events cost by themselves, not by requests
(`python -m benchmarks.feedback`). Prints a table, then one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from loadtest.arguments import counts, ended, failed
from loadtest.load import closed_loop
from loadtest.load.closed_loop import Case, Key, MeasurementError, Point
from loadtest.processes.machine import describe_machine, missing_tools
from loadtest.processes.server import Server, ServerError, running
from loadtest.reports.command import Command, print_machine
from loadtest.reports.pairs import ratios
from loadtest.text_table import aligned, or_dash
from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, read_samples
from loadtest.traffic.body_files import write_bodies

OFF, ALL = "off", "all"
# A closed loop without limit would be refused where the question is what an answer costs.
SERVE = ("--arm", "control={bundle}:1", "--log-level", "warning", "--max-queue-ms", "10000")
TOKENS = ("--feedback-keys", "{folder}/keys", "--tracking", "all")
ABILITIES: Mapping[str, tuple[str, ...]] = {
    "metrics": (),
    "tracking": TOKENS,
    "live calibration": (*TOKENS, "--live-calibration", "on"),
    "example log": (*TOKENS, "--example-log", "{folder}/examples"),
    "explored": (*TOKENS, "--explore-share", "0.01"),
    "shadow": ("--arm", "candidate={bundle}:0", "--shadow", "candidate=control:0.1"),
    "traces": ("--trace-share", "0.001"),  # some tens of traces a second here
    "ladder": ("--when-overloaded", "prior"),
}


def arguments_of(name: str, bundle: Path, folder: Path) -> list[str]:
    """The command line of a service with one ability, with all, or with none."""
    chosen = ABILITIES.values() if name == ALL else [ABILITIES.get(name, ())]
    words = [*SERVE, *(("--metrics", "off") if name == OFF else ())]
    given: set[str] = set()
    for ability in chosen:
        for flag, value in zip(ability[::2], ability[1::2], strict=True):
            if flag == "--arm" or flag not in given:
                words += [flag, value]
            given.add(flag)
    return [word.format(bundle=bundle.resolve(), folder=_own_folder(folder, name)) for word in words]


def make_folder(folder: Path, name: str) -> None:
    """Make the folder that the service of that name writes to, with its keys."""
    own = _own_folder(folder, name)
    (own / "examples").mkdir(parents=True)
    (own / "keys").write_text(f"0 {'5a' * 16}\n", encoding="ascii")


def _own_folder(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    command = Command("loadtest.reports.abilities", __doc__)
    add = command.add_argument
    command.bundle("the bundle that all serve")
    names = [*ABILITIES, ALL]
    add("--abilities", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    command.number("--seconds", 3, "seconds a repetition")
    command.number("--repetitions", 5, "repetitions a point, interleaved")
    command.warm_up()
    add("--candidates", type=counts, default="1,100", metavar="COUNT,...", help="candidates a request")
    add("--connections", type=counts, default="32", metavar="COUNT,...", help="connections of wrk")
    command.cores("the services", "wrk")
    options = command.parsed(arguments)
    busy = print_machine()
    if lack := missing_tools():
        return failed("abilities", lack)
    cases = [Case(size, connections) for size in options.candidates for connections in options.connections]
    try:
        maker = BidRequestMaker(read_samples(options.bundle))
        with tempfile.TemporaryDirectory() as folder, collector() as url:
            names = [OFF, *options.abilities]
            with _running(names, options.bundle, Path(folder), url, options.server_core) as servers:
                bodies = write_bodies(maker, options.candidates, Path(folder))
                points, failures = closed_loop.measure(
                    servers,
                    cases,
                    lambda _, case: bodies[case.candidates],
                    seconds=options.seconds,
                    repetitions=options.repetitions,
                    warm_up_seconds=options.warm_up,
                    core=options.client_core,
                )
        closed_loop.check_all_answered(points, failures)
    except (ServerError, MeasurementError) as error:
        return failed("abilities", error)
    print(table(points))
    print(json.dumps(_report(points, busy)))
    return 0


@contextmanager
def _running(
    names: Sequence[str], bundle: Path, folder: Path, collector: str, core: int
) -> Iterator[dict[str, Server]]:
    """The services, ready, on the same core: those that are paused take no time."""
    with ExitStack() as stack:
        servers = {}
        for name in names:
            make_folder(folder, name)
            servers[name] = stack.enter_context(
                running(
                    "service",
                    arguments_of(name, bundle, folder),
                    core=core,
                    environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector},
                )
            )
        yield servers


@contextmanager
def collector() -> Iterator[str]:
    """A server that takes spans and drops them; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def table(points: Mapping[Key, Point]) -> str:
    """A line an ability and case; shares are of the service without any."""
    rows = [["ability", "candidates", "connections", "req/s", "of off", "p99 ms", "cpu us", "of off"]]
    for (name, case), point in points.items():
        rate, cpu = ratios(points, case, name, OFF)
        rows.append(
            [
                name,
                str(case.candidates),
                str(case.connections),
                f"{point.requests_a_second:.0f}",
                f"{rate:.3f}",
                f"{point.p99_ms:.2f}",
                or_dash(point.cpu_us, digits=1),
                or_dash(None if cpu is None else 1.0 / cpu, digits=3),
            ]
        )
    return aligned(rows)


def _report(points: Mapping[Key, Point], busy: float) -> dict[str, object]:
    return {
        "benchmark": "abilities",
        "machine": describe_machine(),
        "busy_cores_before": round(busy, 2),
        "points": [
            {"ability": name, **asdict(case), **asdict(point), "of_off": ratios(points, case, name, OFF)[0]}
            for (name, case), point in points.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
