"""`make scale`: what each worker more costs in memory and start, and what it brings in requests a second.

The service is started with several numbers of workers, ready when it announces itself; the memory of each
process is read when it is idle, and after wrk has asked. Then services of different numbers of workers are
asked in turns. Where wrk and the workers must share the cores, no number of workers can double what is
answered: the processor time of both says what the machine allows. Tables, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.load import closed_loop, process_tree
from loadtest.load.closed_loop import MeasurementError
from loadtest.load.counts import at_least_one, counts
from loadtest.load.machine import busy_cores, cores, describe_machine
from loadtest.load.process_tree import Memory
from loadtest.load.server_process import Server, ServerError, running
from loadtest.traffic.bid_requests import BidRequestMaker, SampleError, read_samples

ANNOUNCEMENT = b"Bidlight serves on"
BODIES = 20_000


@dataclass(frozen=True)
class Start:
    """A service of so many workers: how long until it was ready, its processes then and after load, in MB.

    The first process is the supervisor, where there are several.
    """

    workers: int
    ready_seconds: float
    idle: list[Memory]
    loaded: list[Memory]


@dataclass(frozen=True)
class Speed:
    """What so many workers answer. `server_us` and `client_us` are processor time a request.

    `busiest` is the share of the workers' time that the busiest one took.
    """

    workers: int
    candidates: int
    requests_a_second: float
    server_us: float
    client_us: float
    busiest: float

    def allowed(self, core_count: int) -> float:
        """The most requests a second that so many workers, and wrk's one thread, can reach on the cores."""
        return 1e6 * min(
            self.workers / self.server_us,
            1.0 / self.client_us,
            core_count / (self.server_us + self.client_us),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    options = _parse(arguments)
    missing = closed_loop.missing(["wrk", "taskset"])
    if missing:
        print(f"scale: error: {' and '.join(missing)} must be installed", file=sys.stderr)
        return 1
    busy, core_count = busy_cores(), len(cores())
    print(f"{describe_machine()}; {core_count} usable, {busy:.1f} were busy before")
    try:
        maker = BidRequestMaker(read_samples(options.bundle))
        with tempfile.TemporaryDirectory() as folder:
            # Many, so that memory which is copied when it is first used shows.
            many = Path(folder) / "many.jsonl"
            many.write_bytes(b"".join(maker.make(1).body + b"\n" for _ in range(BODIES)))
            starts = measure_starts(options, many)
            print(start_table(starts))
            bodies = closed_loop.write_bodies(maker, options.candidates, Path(folder))
            speeds = measure_speeds(options, bodies)
            print(speed_table(speeds, core_count))
    except (SampleError, ServerError, MeasurementError) as error:
        print(f"scale: error: {error}", file=sys.stderr)
        return 1
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
    """Bidlight with so many workers, announced."""
    pin_workers, core = pinning(workers, max(options.workers), cores())
    arguments = ["--arm", f"only={options.bundle.resolve()}", "--workers", str(workers)]
    arguments += ["--pin-workers", pin_workers, "--log-level", "warning"]
    with running("service", arguments, core=core, is_ready=_is_announced) as server:
        yield server


def pinning(workers: int, most: int, usable: Sequence[int]) -> tuple[str, int | None]:
    """The service's --pin-workers, and the core that holds it whole, where up to `most` workers are compared.

    Where even the most of them leave wrk a core, each worker has one of its own, a single worker too; else
    none has, and the system puts them and wrk where it likes. So all that are compared run alike.
    """
    if core_of_wrk(most, usable) is None:
        return "off", None
    return ("on", None) if workers > 1 else ("off", usable[0])


def core_of_wrk(most: int, usable: Sequence[int]) -> int | None:
    """The last core, where even the most workers leave it; None where wrk has to share."""
    return usable[-1] if most < len(usable) else None


def _is_announced(server: Server) -> bool:
    return ANNOUNCEMENT in server.output.read_bytes()


def measure_starts(options: argparse.Namespace, bodies: Path) -> list[Start]:
    """The median start of every number of workers, and the memory of its processes."""
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
    """The memory of each of its processes, the first one first."""
    processes = process_tree.members(server.process_id)
    processes.sort(key=lambda process: process != server.process_id)
    return [memory for process in processes if (memory := process_tree.memory_of(process)) is not None]


def measure_speeds(options: argparse.Namespace, bodies: dict[int, Path]) -> list[Speed]:
    """The medians of every number of workers and size of request, asked in turns."""
    found: dict[tuple[int, int], list[Speed]] = {}
    with ExitStack() as stack:
        servers = {workers: stack.enter_context(service(options, workers)) for workers in options.workers}
        for server in servers.values():
            server.pause()
        for _ in range(options.repetitions):
            for candidates in options.candidates:
                for workers, server in servers.items():
                    server.resume()
                    speed = _ask(server, workers, candidates, bodies[candidates], options)
                    found.setdefault((candidates, workers), []).append(speed)
                    server.pause()
    return [_median(speeds) for speeds in found.values()]


def _ask(server: Server, workers: int, candidates: int, bodies: Path, options: argparse.Namespace) -> Speed:
    """One run of wrk, and whose processor time it took."""
    processes = process_tree.members(server.process_id)
    core = core_of_wrk(max(options.workers), cores())
    closed_loop.run_wrk(server, bodies, options.connections, 1, core)
    before = [process_tree.cpu_seconds([process]) or 0.0 for process in processes]
    client_before = _client_seconds()
    point = closed_loop.run_wrk(server, bodies, options.connections, options.seconds, core)
    client = _client_seconds() - client_before
    if point.errors:
        raise MeasurementError(f"{server.url} must answer all with success (got {point.errors} errors)")
    after = [process_tree.cpu_seconds([process]) or 0.0 for process in processes]
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
    """Processor time of all programs that have run and ended, wrk that is."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _median(speeds: Sequence[Speed]) -> Speed:
    names = ("requests_a_second", "server_us", "client_us", "busiest")
    medians = {name: statistics.median(getattr(speed, name) for speed in speeds) for name in names}
    return Speed(speeds[0].workers, speeds[0].candidates, **medians)


def start_table(starts: Sequence[Start]) -> str:
    """A line a number of workers."""
    lines = ["", "workers  ready s  total MB (PSS)  each more MB  private of a worker MB: idle, after load"]
    for start in starts:
        totals = sum(memory.proportional for memory in start.loaded)
        first = sum(memory.proportional for memory in starts[0].loaded)
        more = start.workers - starts[0].workers
        each = f"{(totals - first) / more:12.1f}" if more else f"{'-':>12}"
        idle, loaded = (max(each.private for each in memories) for memories in (start.idle, start.loaded))
        ready = f"{start.workers:7}  {start.ready_seconds:7.2f}"
        lines.append(f"{ready}  {totals:14.1f}  {each}  {idle:8.1f}, {loaded:.1f}")
    return "\n".join(lines)


def speed_table(speeds: Sequence[Speed], core_count: int) -> str:
    """A line a size of request and number of workers, compared with the fewest.

    `allowed` is what the processor times of workers and wrk permit on these cores, `by cpu` what those of the
    workers would permit with a core each and wrk elsewhere.
    """
    lines = [
        "",
        "candidates  workers  req/s  x of fewest  x allowed  x by cpu  server us  wrk us  busiest worker",
    ]
    for speed in speeds:
        fewest = next(other for other in speeds if other.candidates == speed.candidates)
        times = speed.requests_a_second / fewest.requests_a_second
        allowed = speed.allowed(core_count) / fewest.allowed(core_count)
        by_cpu = speed.workers / fewest.workers * fewest.server_us / speed.server_us
        lines.append(
            f"{speed.candidates:10}  {speed.workers:7}  {speed.requests_a_second:5.0f}  {times:11.2f}  "
            f"{allowed:9.2f}  {by_cpu:8.2f}  {speed.server_us:9.1f}  {speed.client_us:6.1f}  "
            f"{speed.busiest:14.2f}"
        )
    return "\n".join(lines)


def _different(text: str) -> tuple[int, ...]:
    return tuple(sorted(set(counts(text))))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def option(name: str, kind: Callable[[str], object], default: object, what: str) -> None:
        parser.add_argument(name, type=kind, default=default, metavar="N", help=what)

    parser = argparse.ArgumentParser(
        prog="python -m loadtest.reports.scale",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path("artifacts/demo"), metavar="FOLDER", help="the bundle to serve"
    )
    option("--workers", _different, "1 2 4", "numbers of workers")
    option("--candidates", _different, "1 100 500", "candidates a request")
    option("--connections", at_least_one, 16, "connections of wrk")
    option("--seconds", at_least_one, 3, "seconds of one run of wrk")
    option("--repetitions", at_least_one, 3, "repetitions, of which the median counts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
