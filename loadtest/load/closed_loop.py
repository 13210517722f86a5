"""wrk -> requests a second and latency of servers at so many connections; it knows no server's inside.

A closed loop: each connection sends again as soon as it is answered, so the figures are what the server can
do, and the latency is that of a server with no time to spare. Repetitions of the contenders alternate, and
who is not asked is paused; so a neighbour's noise meets all of them, they do not meet each other, and the
median counts.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.load.server_process import Server
from loadtest.traffic.answers import WrongAnswer
from loadtest.traffic.bid_requests import BidRequestMaker

SCRIPT = Path(__file__).with_suffix(".lua")
BODIES = 256
WARM_UP_SECONDS = 1
# What wrk leaves unanswered at its end: a server that is paused in the midst of it may take that for a hang.
SECONDS_TO_SETTLE = 0.5


@dataclass(frozen=True)
class Point:
    """What a server did at one size of request and one number of connections.

    `requests_a_second` are those answered with success; `errors` are other answers and broken connections.
    `cpu_us` is the processor time of all the server's processes for each answered with success, and
    `memory_mb` what they hold: what it costs, whoever else uses the machine; None if unknown.
    """

    requests_a_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: int
    cpu_us: float | None
    memory_mb: float | None


@dataclass(frozen=True)
class Case:
    """A size of request and a number of connections."""

    candidates: int
    connections: int


Key = tuple[str, Case]


class MeasurementError(RuntimeError):
    """wrk did not run, or the server answered nothing."""


def missing(tools: Iterable[str]) -> list[str]:
    """Which of these programs are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None]


def lack_of_tools() -> str:
    """What must be installed for a measurement that holds servers and wrk on cores; empty if all is."""
    absent = missing(["wrk", "taskset"])
    return (
        f"{' and '.join(absent)} must be installed; Debian's packages are wrk and util-linux"
        if absent
        else ""
    )


def write_bodies(maker: BidRequestMaker, sizes: Iterable[int], folder: Path) -> dict[int, Path]:
    """A file of bodies, one a line, for each size of request."""
    files = {}
    for size in sizes:
        files[size] = folder / f"bodies.{size}.jsonl"
        files[size].write_bytes(b"".join(maker.make(size).body + b"\n" for _ in range(BODIES)))
    return files


def write_frames(bodies: Iterable[bytes], file: Path) -> None:
    """Bodies that may hold line breaks, each behind a line with its length, in a file NAME.frames."""
    file.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def measure(
    servers: Mapping[str, Server],
    cases: Sequence[Case],
    file_of: Callable[[str, Case], Path],
    *,
    seconds: int,
    repetitions: int,
    core: int,
    check: Callable[[str, Case], object] | None = None,
    tell: Callable[[str], object] | None = None,
) -> tuple[dict[Key, Point], dict[Key, str]]:
    """The median point of every server in every case, with wrk held on `core`, and what went wrong with it.

    A server that fails in a later repetition keeps the points of those before, and is asked no more.

    `file_of` names the file of bodies that a server is sent in a case. `seconds` is one repetition's; a
    second of each server and case warms up and is not counted. `check` is called before that and raises
    WrongAnswer for a server that is not to be timed. All servers are left paused: whoever wants to speak to
    one resumes it.
    """
    for server in servers.values():
        server.pause()
    found: dict[Key, list[Point]] = {}
    failures: dict[Key, str] = {}
    for repetition in range(repetitions):
        for case in cases:
            for key in ((name, case) for name in servers):
                if key in failures:
                    continue
                server, file = servers[key[0]], file_of(*key)
                server.resume()
                try:
                    if repetition == 0:
                        if check is not None:
                            check(*key)
                        run_wrk(server, file, case.connections, WARM_UP_SECONDS, core)
                    found.setdefault(key, []).append(run_wrk(server, file, case.connections, seconds, core))
                except (MeasurementError, WrongAnswer) as error:
                    failures[key] = str(error)
                finally:
                    time.sleep(SECONDS_TO_SETTLE)
                    server.pause()
            if tell is not None:
                tell(f"round {repetition + 1} of {repetitions}: {case}")
    return {key: median(points) for key, points in found.items()}, failures


def run_wrk(server: Server, bodies: Path, connections: int, seconds: int, core: int | None) -> Point:
    """One run, on `core` or anywhere.

    Raises MeasurementError if it does not run, or no request is answered with success.
    """
    command = ["taskset", "--cpu-list", str(core)] if core is not None else []
    command += ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT), server.url, "--"]
    command += [str(bodies), server.route.path]
    command += [f"{name}: {value}" for name, value in server.route.headers.items()]
    before = server.cpu_seconds()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    after = server.cpu_seconds()
    if run.returncode != 0:
        raise MeasurementError(f"wrk failed: {(run.stderr or run.stdout).strip()[-300:]}")
    figures = json.loads(run.stdout.splitlines()[-1])
    used = None if before is None or after is None else after - before
    return point_of(figures, server.url, cpu_seconds=used, memory_mb=server.memory_mb())


def point_of(
    figures: Mapping[str, float], url: str, *, cpu_seconds: float | None, memory_mb: float | None
) -> Point:
    """What wrk printed, as a point. Raises MeasurementError if no request was answered with success."""
    good, errors = figures["answers"] - figures["refused"], figures["refused"] + figures["broken"]
    if not good:
        raise MeasurementError(
            f"{url} must answer a request with success (got {figures['refused']} other answers and "
            f"{figures['broken']} broken connections)"
        )
    return Point(
        requests_a_second=good / figures["seconds"],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        p999_ms=figures["p999_ms"],
        errors=int(errors),
        cpu_us=None if cpu_seconds is None else cpu_seconds / good * 1e6,
        memory_mb=memory_mb,
    )


def median(points: Sequence[Point]) -> Point:
    """Each figure's median, where it is known; errors add up."""
    columns = {name: [asdict(point)[name] for point in points] for name in asdict(points[0])}
    errors = sum(columns.pop("errors"))
    known: dict[str, list[float]] = {
        name: [each for each in values if each is not None] for name, values in columns.items()
    }
    medians: dict[str, Any] = {
        name: statistics.median(values) if values else None for name, values in known.items()
    }
    return Point(errors=errors, **medians)


def table(points: Mapping[tuple[str, Case], Point]) -> str:
    """A line a case, four columns a server; for two servers, how many times better the first one is."""
    servers = list(dict.fromkeys(name for name, _ in points))
    heads = ["candidates", "connections"]
    heads += [f"{name} {what}" for name in servers for what in ("req/s", "p50 ms", "p99 ms", "cpu us")]
    heads += ["x req/s", "x cpu"] if len(servers) == 2 else []
    lines = ["  ".join(heads)]
    for case in dict.fromkeys(case for _, case in points):
        cells = [str(case.candidates), str(case.connections)]
        for name in servers:
            point = points[name, case]
            cells += [f"{point.requests_a_second:.0f}", f"{point.p50_ms:.2f}", f"{point.p99_ms:.2f}"]
            cells.append("-" if point.cpu_us is None else f"{point.cpu_us:.0f}")
        if len(servers) == 2:
            cells += ["-" if found is None else f"{found:.1f}" for found in ratios(points, case, *servers)]
        lines.append("  ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, heads, strict=True)))
    return "\n".join(lines)


def ratios(
    points: Mapping[tuple[str, Case], Point], case: Case, first: str, second: str
) -> tuple[float, float | None]:
    """How many times the requests a second of `second` that `first` answers, and for how much less cpu."""
    ours, theirs = points[first, case], points[second, case]
    cpu = theirs.cpu_us / ours.cpu_us if ours.cpu_us and theirs.cpu_us else None
    return ours.requests_a_second / theirs.requests_a_second, cpu
