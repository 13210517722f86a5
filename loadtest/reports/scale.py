"""`make scale`: measures what each additional worker costs in memory and start-up, and what it gains.

The service is started with each number of workers until it announces itself; the memory of every process is
read when idle and after a load by wrk. Then wrk measures services with different numbers of workers in turns.
The ceiling: where wrk and the workers share the cores, twice the workers cannot answer twice the requests;
the processor time of both says what the machine allows. Prints tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.arguments import counts, ended, failed
from loadtest.load import closed_loop
from loadtest.load.closed_loop import MeasurementError
from loadtest.processes import tree
from loadtest.processes.machine import describe_machine, missing_tools, usable_cores
from loadtest.processes.server import Server, ServerError, running
from loadtest.processes.tree import Memory
from loadtest.reports.command import Command, print_machine
from loadtest.text_table import aligned
from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, read_samples
from loadtest.traffic.body_files import write_bodies, write_lines

ANNOUNCEMENT = b"Bidlight serves on"
BODIES = 20_000  # many, so that memory copied on first use shows


@dataclass(frozen=True)
class Start:
    """A service with some number of workers: seconds until ready, and its processes' memory, idle and loaded.

    With several workers the first process is the supervisor.
    """

    workers: int
    ready_seconds: float
    idle: list[Memory]
    loaded: list[Memory]


@dataclass(frozen=True)
class Speed:
    """The throughput of some number of workers. `server_us` and `client_us` are processor time a request.

    `busiest` is the share of the workers' processor time that the busiest one took.
    """

    workers: int
    candidates: int
    requests_a_second: float
    server_us: float
    client_us: float
    busiest: float

    def allowed(self, core_count: int) -> float:
        """The most requests a second that these workers and wrk's one thread can reach on the cores."""
        return 1e6 * min(
            self.workers / self.server_us,
            1.0 / self.client_us,
            core_count / (self.server_us + self.client_us),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    options = _parse(arguments)
    if lack := missing_tools():
        return failed("scale", lack)
    busy, core_count = print_machine(), len(usable_cores())
    try:
        maker = BidRequestMaker(read_samples(options.bundle))
        with tempfile.TemporaryDirectory() as folder:
            many = write_lines(maker, 1, BODIES, Path(folder) / "many.jsonl")
            starts = measure_starts(options, many)
            print(f"\n{start_table(starts)}")
            bodies = write_bodies(maker, options.candidates, Path(folder))
            speeds = measure_speeds(options, bodies)
            print(f"\n{speed_table(speeds, core_count)}")
    except (ServerError, MeasurementError) as error:
        return failed("scale", error)
    report = {
        "benchmark": "scale",
        "machine": describe_machine(),
        "busy_cores": busy,
        "starts": [asdict(start) for start in starts],
        "speeds": [asdict(speed) for speed in speeds],
    }
    print(json.dumps(report))
    return 0


@contextmanager
def service(options: argparse.Namespace, workers: int) -> Iterator[Server]:
    """Bidlight with `workers` workers, once it has announced itself."""
    pin_workers, core = pinning(workers, max(options.workers), usable_cores())
    arguments = ["--arm", f"only={options.bundle.resolve()}", "--workers", str(workers)]
    arguments += ["--pin-workers", pin_workers, "--log-level", "warning"]
    with running("service", arguments, core=core, is_ready=_is_announced) as server:
        yield server


def pinning(workers: int, most: int, usable: Sequence[int]) -> tuple[str, int | None]:
    """The service's --pin-workers, and the core for a service of one worker, in a comparison up to `most`.

    If `most` workers leave a core to wrk, every worker gets a core of its own, a single worker too; otherwise
    none is pinned, and the system places them and wrk. So all that are compared run alike.
    """
    if core_of_wrk(most, usable) is None:
        return "off", None
    return ("on", None) if workers > 1 else ("off", usable[0])


def core_of_wrk(most: int, usable: Sequence[int]) -> int | None:
    """The last core, if `most` workers leave it free; None if wrk has to share."""
    return usable[-1] if most < len(usable) else None


def _is_announced(server: Server) -> bool:
    return ANNOUNCEMENT in server.output.read_bytes()


def measure_starts(options: argparse.Namespace, bodies: Path) -> list[Start]:
    """The median start of each number of workers, and the memory of its processes."""
    seconds: dict[int, list[float]] = {}
    found: dict[int, Start] = {}
    for repetition in range(options.repetitions):
        for workers in options.workers:
            began = time.monotonic()
            with service(options, workers) as server:
                seconds.setdefault(workers, []).append(time.monotonic() - began)
                if repetition == 0:
                    idle = _memories(server)
                    closed_loop.run_wrk(server, bodies, options.connections, options.seconds, None)
                    found[workers] = Start(workers, 0.0, idle, _memories(server))
    return [
        Start(workers, statistics.median(seconds[workers]), start.idle, start.loaded)
        for workers, start in found.items()
    ]


def _memories(server: Server) -> list[Memory]:
    """The memory of each process of the server, its first process first."""
    processes = tree.members(server.process_id)
    processes.sort(key=lambda process: process != server.process_id)
    return [memory for process in processes if (memory := tree.memory_of(process)) is not None]


def measure_speeds(options: argparse.Namespace, bodies: dict[int, Path]) -> list[Speed]:
    """The medians of every number of workers and size of request, measured in turns."""
    found: dict[tuple[int, int], list[Speed]] = {}
    with ExitStack() as stack:
        servers = {workers: stack.enter_context(service(options, workers)) for workers in options.workers}
        for server in servers.values():
            server.pause()
        for _ in range(options.repetitions):
            for candidates in options.candidates:
                for workers, server in servers.items():
                    server.resume()
                    speed = _speed(server, workers, candidates, bodies[candidates], options)
                    found.setdefault((candidates, workers), []).append(speed)
                    server.pause()
    return [_median(speeds) for speeds in found.values()]


def _speed(server: Server, workers: int, candidates: int, bodies: Path, options: argparse.Namespace) -> Speed:
    """One run of wrk, with the processor time of every process and of wrk."""
    processes = tree.members(server.process_id)
    core = core_of_wrk(max(options.workers), usable_cores())
    closed_loop.warm_up(server, bodies, options.connections, options.warm_up, core)
    before = [tree.cpu_seconds([process]) or 0.0 for process in processes]
    client_before = _client_seconds()
    point = closed_loop.run_wrk(server, bodies, options.connections, options.seconds, core)
    client = _client_seconds() - client_before
    if point.errors:
        raise MeasurementError(f"{server.url} must answer all with success (got {point.errors} errors)")
    after = [tree.cpu_seconds([process]) or 0.0 for process in processes]
    used = [end - start for start, end in zip(before, after, strict=True)]
    answers = point.requests_a_second * options.seconds
    return Speed(
        workers,
        candidates,
        point.requests_a_second,
        sum(used) / answers * 1e6,
        client / answers * 1e6,
        max(used) / sum(used),
    )


def _client_seconds() -> float:
    """Processor time of the child processes that have ended: of wrk."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _median(speeds: Sequence[Speed]) -> Speed:
    names = ("requests_a_second", "server_us", "client_us", "busiest")
    medians = {name: statistics.median(getattr(speed, name) for speed in speeds) for name in names}
    return Speed(speeds[0].workers, speeds[0].candidates, **medians)


def start_table(starts: Sequence[Start]) -> str:
    """A line a number of workers. `private` is memory that a worker shares with no process."""
    heads = ["workers", "ready s", "total MB (PSS)", "each more MB", "private MB idle", "private MB loaded"]
    rows = [heads]
    fewest = starts[0]
    for start in starts:
        more = start.workers - fewest.workers
        grown = _proportional(start.loaded) - _proportional(fewest.loaded)
        rows.append(
            [
                str(start.workers),
                f"{start.ready_seconds:.2f}",
                f"{_proportional(start.loaded):.1f}",
                f"{grown / more:.1f}" if more else "-",
                *(f"{max(each.private for each in memories):.1f}" for memories in (start.idle, start.loaded)),
            ]
        )
    return aligned(rows)


def _proportional(memories: Sequence[Memory]) -> float:
    return sum(memory.proportional for memory in memories)


def speed_table(speeds: Sequence[Speed], core_count: int) -> str:
    """A line a size of request and number of workers, compared with the fewest workers.

    `allowed` is what the processor times of workers and wrk permit on these cores, `by cpu` what those of the
    workers would permit with a core each and wrk elsewhere.
    """
    heads = ["candidates", "workers", "req/s", "x of fewest", "x allowed", "x by cpu", "server us", "wrk us"]
    rows = [[*heads, "busiest worker"]]
    for speed in speeds:
        fewest = next(other for other in speeds if other.candidates == speed.candidates)
        rows.append(
            [
                str(speed.candidates),
                str(speed.workers),
                f"{speed.requests_a_second:.0f}",
                f"{speed.requests_a_second / fewest.requests_a_second:.2f}",
                f"{speed.allowed(core_count) / fewest.allowed(core_count):.2f}",
                f"{speed.workers / fewest.workers * fewest.server_us / speed.server_us:.2f}",
                f"{speed.server_us:.1f}",
                f"{speed.client_us:.1f}",
                f"{speed.busiest:.2f}",
            ]
        )
    return aligned(rows)


def _different(text: str) -> tuple[int, ...]:
    return tuple(sorted(set(counts(text))))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = Command("loadtest.reports.scale", __doc__)
    add = command.add_argument
    command.bundle("the bundle to serve")
    add("--workers", type=_different, default="1 2 4", metavar="N", help="numbers of workers")
    add("--candidates", type=_different, default="1 100 500", metavar="N", help="candidates a request")
    command.number("--connections", 16, "connections of wrk")
    command.number("--seconds", 3, "seconds of one run of wrk")
    command.number("--repetitions", 3, "repetitions; the median counts")
    command.warm_up()
    return command.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
