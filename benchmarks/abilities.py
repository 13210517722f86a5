"""What each ability of the service costs: microseconds of processor time a request, without a socket.

`python -m benchmarks.abilities` runs each in a process of its own, in interleaved rounds, and prints a table.
`python -m loadtest.reports.abilities` asks the same of requests a second over HTTP, which other work on the
machine disturbs far more. Requests come on some connections at once, again as soon as all are answered. The
time is that of all threads, so it holds what is done after answers: shadows, the log of examples, spans. Each
figure is the best of some timings that are long enough for the log to be written. With `--against FOLDER`
rounds of another checkout alternate with those of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.command import Command, print_table
from loadtest.reports import abilities
from loadtest.reports.abilities import ABILITIES, ALL, OFF, arguments_of
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples
from service.http.app import create_app
from service.http.connection import HttpConnection
from service.http.uvicorn_internals import ServerState
from service.process.options import build_parser, read_settings
from service.process.server import server_config

REPOSITORY = Path(__file__).parents[1]
# The log of examples is written twice a second.
TIMING_SECONDS, WARM_UP_SECONDS = 0.6, 0.3
BODIES = 256
# Turns of the loop in which nothing is asked, as where clients are not all answered at once: for shadows.
IDLE_TURNS = 3
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
Figures = dict[str, dict[int, float]]


class Client:
    """Transports of connections that count answers; the first one that is no success is kept."""

    def __init__(self) -> None:
        self.answers = 0
        self.refusal = b""

    def write(self, data: bytes) -> None:
        """Count one answer."""
        if not data.startswith(b"HTTP/1.1 200"):
            self.refusal = data
        self.answers += 1

    def is_closing(self) -> bool:
        """Return False: it never closes."""
        return False

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""

    def get_extra_info(self, _: str) -> None:
        """Do nothing."""


async def _measure(options: argparse.Namespace) -> dict[int, float]:
    """Microseconds a request of one ability, by number of candidates."""
    settings = read_settings(build_parser(), options.words)
    app = create_app(settings)
    config, state = server_config(settings, app), ServerState()
    config.load()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    maker = BidRequestMaker(read_samples(options.bundle))
    async with app.router.lifespan_context(app):
        client = Client()
        connections = [HttpConnection(config, state, {}) for _ in range(options.connections)]
        for connection in connections:
            connection.connection_made(client)  # type: ignore[arg-type]
        gc.collect()
        gc.freeze()
        found = {}
        for size in options.candidates:
            bodies = [maker.make(size).body for _ in range(BODIES)]
            messages = [HEAD % len(body) + body for body in bodies]
            await _microseconds(client, connections, messages, WARM_UP_SECONDS)
            found[size] = min(
                [
                    await _microseconds(client, connections, messages, TIMING_SECONDS)
                    for _ in range(options.timings)
                ]
            )
        for connection in connections:
            connection.connection_lost(None)
    return found


async def _microseconds(
    client: Client, connections: Sequence[HttpConnection], messages: Sequence[bytes], seconds: float
) -> float:
    """Processor time a request while these are sent. Raises RuntimeError for a refusal."""
    requests = 0
    began, started = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for connection in connections:
            connection.data_received(messages[requests % len(messages)])
            requests += 1
        awaited = client.answers + len(connections)
        while client.answers < awaited:
            await asyncio.sleep(0)
        for _ in range(IDLE_TURNS):
            await asyncio.sleep(0)
    took = time.process_time() - started
    if client.refusal:
        raise RuntimeError(f"an answer must be a 200 (got {client.refusal!r})")
    return took / requests * 1e6


def _run(name: str, checkout: Path, collector: str, options: argparse.Namespace) -> dict[int, float]:
    """The figures of one ability in a new process, with the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / name.replace(" ", "-")
        (own / "examples").mkdir(parents=True)
        (own / "keys").write_text(f"0 {'5a' * 16}\n", encoding="ascii")
        words = arguments_of(name, options.bundle, Path(folder))
        # -P: nothing is imported from this program's folder, everything from the checkout measured.
        done = subprocess.run(
            [sys.executable, "-P", __file__, *options.passed_on, "--once", *words],
            cwd=checkout,
            env={
                **os.environ,
                "PYTHONPATH": str(checkout),
                "OMP_NUM_THREADS": "1",
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            },
            stdout=subprocess.PIPE,
            check=True,
        )
    return {int(size): figure for size, figure in json.loads(done.stdout).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    command = Command("abilities", __doc__)
    add = command.add_argument
    bundle = REPOSITORY / "artifacts" / "demo"
    add("--bundle", type=Path, default=bundle, metavar="FOLDER", help="the bundle that scores [artifacts/demo]")
    names = [*ABILITIES, ALL]
    add("--abilities", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    command.numbers("--candidates", (1, 100), "of a request")
    command.number("--connections", 32, "requests at once")
    command.number("--timings", 3, "in a process, of which the best counts")
    command.number("--rounds", 3, "interleaved, of which the median counts")
    add("--against", type=Path, metavar="FOLDER", help="another checkout")
    add("--once", nargs=argparse.REMAINDER, dest="words", help=argparse.SUPPRESS)
    options = command.parse_args(arguments)
    options.bundle = options.bundle.resolve()
    if options.words is not None:
        print(json.dumps(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_measure(options))))
        return 0
    options.passed_on = [
        *("--bundle", str(options.bundle), "--connections", str(options.connections)),
        *("--timings", str(options.timings), "--candidates", *map(str, options.candidates)),
    ]
    folders = [REPOSITORY] if options.against is None else [REPOSITORY, options.against.resolve()]
    names = [OFF, *options.abilities]
    rounds = []
    with abilities.collector() as url:
        for _ in range(options.rounds):
            rounds.append(
                {(folder, name): _run(name, folder, url, options) for name in names for folder in folders}
            )
    figures: list[Figures] = [
        {
            name: {size: median(each[folder, name][size] for each in rounds) for size in options.candidates}
            for name in names
        }
        for folder in folders
    ]
    print_table(table(figures, options.candidates))
    command.print_json(microseconds=figures[0], **({"other": figures[1]} if len(figures) > 1 else {}))
    return 0


def table(figures: Sequence[Figures], sizes: Sequence[int]) -> list[list[str]]:
    """A line an ability: microseconds, and how many times those of a service without any, by checkout."""
    heads = [
        [f"{size} us{other}", "of off"] for size in sizes for other in ("", " other")[: len(figures)]
    ]
    rows = [["ability", *(word for head in heads for word in head)]]
    for name in figures[0]:
        cells = [
            [f"{found[name][size]:.1f}", f"{found[name][size] / found[OFF][size]:.3f}"]
            for size in sizes
            for found in figures
        ]
        rows.append([name, *(word for cell in cells for word in cell)])
    return rows


if __name__ == "__main__":
    sys.exit(main())
