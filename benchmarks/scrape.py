"""What a scrape costs: the milliseconds until all of GET /metrics has arrived, by the number of workers.

`python -m benchmarks.scrape` starts the service, sends it requests until every worker has answered some, and
scrapes it again and again. `--against FOLDER` measures another checkout's service in turn with this one's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from benchmarks.command import Command, ended, print_table
from loadtest.arguments import a_checkout
from loadtest.processes.server import REPOSITORY, Server, running
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples

REQUESTS_A_WORKER = 30


def measure(folders: Sequence[Path], bundle: Path, workers: int, scrapes: int) -> list[list[float]]:
    """Milliseconds of each scrape, by checkout."""
    arguments = ["--arm", f"control={bundle.resolve()}", "--workers", str(workers), "--log-level", "warning"]
    request = BidRequestMaker(read_samples(bundle)).make(1).body
    found: list[list[float]] = [[] for _ in folders]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                running(
                    "service",
                    arguments,
                    # Nothing is imported from the current folder, all from the checkout that is measured.
                    environment={"PYTHONSAFEPATH": "1", "PYTHONPATH": str(folder.resolve())},
                )
            )
            for folder in folders
        ]
        for server in servers:
            for _ in range(workers * REQUESTS_A_WORKER):
                server.post(request)
        for _ in range(scrapes):
            for server, times in zip(servers, found, strict=True):
                times.append(round(scrape(server), 2))
    return found


def scrape(server: Server) -> float:
    """Milliseconds of one scrape over a new connection, as a worker is chosen for each. Raises OSError."""
    started = time.perf_counter()
    with urlopen(f"{server.url}/metrics") as answer:
        answer.read()
    return 1000.0 * (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("scrape", __doc__)
    add = command.add_argument
    command.bundle()
    add("--against", type=a_checkout, metavar="FOLDER", help="another checkout")
    command.numbers("--workers", (1, 2, 8), "of the service")
    command.number("--scrapes", 100, "of each service")
    options = command.parse_args(arguments)
    folders = [REPOSITORY] if options.against is None else [REPOSITORY, options.against]
    found = {
        workers: measure(folders, options.bundle, workers, options.scrapes) for workers in options.workers
    }
    whose = ("", ", the other")[: len(folders)]
    rows = [["workers", *[f"{of} ms{each}" for each in whose for of in ("median", "best")]]]
    for workers, all_times in found.items():
        figures = [figure for times in all_times for figure in (median(times), min(times))]
        rows.append([str(workers), *[f"{figure:.1f}" for figure in figures]])
    print_table(rows)
    command.print_json(milliseconds=found)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
