"""What each ability of the service costs: microseconds of processor time a request, without a socket.

`python -m benchmarks.abilities` asks what `python -m loadtest.reports.abilities` asks over HTTP, which other
work on the machine disturbs far more. A process has a service with the ability and one without any, which
take turns for milliseconds; the median of the ratios counts. Requests come on some connections at once, again
as soon as all are answered. What other threads do, the log of examples and spans, is added. With `--against
FOLDER` processes of another checkout alternate with those of this one. There is no client and no kernel,
which take as much again of a small request, so each share is larger than over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.command import Command, ended, print_table
from benchmarks.request import Sink, connected
from loadtest.arguments import a_checkout
from loadtest.reports import abilities
from loadtest.reports.abilities import ABILITIES, ALL, OFF, arguments_of, make_folder
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples
from service.http.app import Bidlight, create_app
from service.process.options import build_parser, read_settings

REPOSITORY = Path(__file__).parents[1]
TIMING_SECONDS = 0.02
BODIES = 256
# Turns of the loop in which nothing is asked, as where clients are not all answered at once: for shadows.
IDLE_TURNS = 3
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Microseconds without and with each ability, by the number of candidates.
Figures = dict[str, dict[int, list[float]]]


class Bench:
    """A service that serves, and connections to it."""

    def __init__(self, app: Bidlight, connections: int) -> None:
        self.app, self._sink = app, Sink()
        self._connections = connected(app, self._sink, connections)
        self.requests = 0

    def close(self) -> None:
        """Stop all timers."""
        for connection in self._connections:
            connection.connection_lost(None)

    async def microseconds(self, messages: Sequence[bytes]) -> float:
        """This thread's time a request for a while. Raises RuntimeError for a refusal."""
        return await self._sink.in_time(lambda: self._timed(messages))

    async def _timed(self, messages: Sequence[bytes]) -> float:
        sink, started, before = self._sink, time.thread_time(), self.requests
        took = 0.0
        while took < TIMING_SECONDS:
            for connection in self._connections:
                connection.data_received(messages[self.requests % len(messages)])
                self.requests += 1
            while sink.answers < self.requests:
                await asyncio.sleep(0)
            for _ in range(IDLE_TURNS):
                await asyncio.sleep(0)
            took = time.thread_time() - started
        return took / (self.requests - before) * 1e6

    @contextmanager
    def resting(self) -> Iterator[None]:
        """It does nothing meanwhile that waits until nobody else does: that is a part of its own time."""
        admission = self.app.predict_service.admission
        work = admission.start(0)
        yield
        admission.stop(work)


async def _measure(options: argparse.Namespace) -> dict[int, list[float]]:
    """Microseconds a request of a service without abilities and of one with some, by candidates."""
    apps = [create_app(read_settings(build_parser(), shlex.split(words))) for words in options.words]
    maker = BidRequestMaker(read_samples(options.bundle))
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
        off, on = (Bench(app, options.connections) for app in apps)
        gc.collect()
        gc.freeze()
        found = {}
        for size in options.candidates:
            bodies = [maker.make(size).body for _ in range(BODIES)]
            messages = [HEAD % len(body) + body for body in bodies]
            pairs = []
            for timing in range(options.timings + 1):
                if timing == 1:  # the first one is a warm-up
                    others, requests = _other_threads(), on.requests
                with on.resting():
                    before = await off.microseconds(messages)
                pairs.append((before, await on.microseconds(messages)))
            ratio = median(after / before for before, after in pairs[1:])
            alone = median(before for before, _ in pairs[1:])
            behind = (_other_threads() - others) / (on.requests - requests) * 1e6
            found[size] = [alone, alone * ratio + behind]
        off.close()
        on.close()
    return found


def _other_threads() -> float:
    """Processor time of the threads of this process but this one."""
    return time.process_time() - time.thread_time()


def _run(name: str, checkout: Path, collector: str, options: argparse.Namespace) -> dict[int, list[float]]:
    """The figures of one ability in a new process, measured by a checkout's own program."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), name)
        words = [shlex.join(arguments_of(each, options.bundle, Path(folder))) for each in (OFF, name)]
        variables = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", ENDPOINT: collector}
        program = checkout / Path(__file__).relative_to(REPOSITORY)
        # -P: nothing is imported from the program's own folder, everything from the checkout measured.
        done = subprocess.run(
            [sys.executable, "-P", str(program), *options.passed_on, "--once", *words],
            cwd=checkout,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            check=True,
        )
    return {int(size): figures for size, figures in json.loads(done.stdout).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    command = Command("abilities", __doc__)
    add = command.add_argument
    command.bundle()
    names = [*ABILITIES, ALL]
    add("--abilities", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    command.numbers("--candidates", (1, 100), "of a request")
    command.number("--connections", 32, "requests at once")
    command.number("--timings", 40, "of each of the two services in a process")
    command.number("--rounds", 1, "interleaved, of which the median counts")
    add("--against", type=a_checkout, metavar="FOLDER", help="another checkout")
    add("--once", nargs=2, dest="words", help=argparse.SUPPRESS)
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
    with abilities.collector() as url:
        rounds = [
            {
                (folder, name): _run(name, folder, url, options)
                for name in options.abilities
                for folder in folders
            }
            for _ in range(options.rounds)
        ]
    found = [
        {
            name: {
                size: [median(each[folder, name][size][which] for each in rounds) for which in (0, 1)]
                for size in options.candidates
            }
            for name in options.abilities
        }
        for folder in folders
    ]
    print_table(table(found, options.candidates))
    command.print_json(microseconds=found[0], **({"other": found[1]} if len(found) > 1 else {}))
    return 0


def table(found: Sequence[Figures], sizes: Sequence[int]) -> list[list[str]]:
    """A line an ability: microseconds that it adds, and its whole time as a share of that without it."""
    places = [(size, which) for size in sizes for which in range(len(found))]
    head = [word for size, which in places for word in (f"{size}: us more", "of off" + " (other)" * which)]
    rows = [["ability", *head]]
    for name in found[0]:
        pairs = [found[which][name][size] for size, which in places]
        rows.append([name, *(word for off, on in pairs for word in (f"{on - off:.1f}", f"{on / off:.3f}"))])
    return rows


if __name__ == "__main__":
    sys.exit(ended(main))
