"""Measures requests a second and latency of servers with wrk, at a given number of connections.

A closed loop: each connection sends again as soon as it is answered, so the figures are what the server can
do, and the latency is that of a saturated server. Repetitions of the servers alternate and a server is paused
while others are measured, so noise on the machine hits all of them and they do not disturb each other. The
median counts. It does not know what a server does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.processes.machine import pinned
from loadtest.processes.server import Server
from loadtest.traffic.answers import WrongAnswer

SCRIPT = Path(__file__).with_suffix(".lua")
WARM_UP_SECONDS = 1
# For requests that wrk leaves unanswered when it ends: a server paused meanwhile may take that for a hang.
SECONDS_TO_SETTLE = 0.5


@dataclass(frozen=True)
class Point:
    """What a server did at one size of request and one number of connections.

    `requests_a_second` counts answers with status 200; `errors` counts other answers and broken connections.
    `cpu_us` is the processor time of all the server's processes for each answer with status 200, and
    `memory_mb` their memory; other users of the machine hardly change these two. None where unknown.
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
    """wrk did not run, or the server answered no request with status 200."""


def measure(
    servers: Mapping[str, Server],
    cases: Sequence[Case],
    file_of: Callable[[str, Case], Path],
    *,
    seconds: int,
    repetitions: int,
    core: int,
    warm_up_seconds: int = WARM_UP_SECONDS,
    check: Callable[[str, Case], object] | None = None,
    tell: Callable[[str], object] | None = None,
) -> tuple[dict[Key, Point], dict[Key, str]]:
    """The median point of every server in every case, with wrk on `core`, and the reason of each failure.

    A server that fails in a later repetition keeps its earlier points and is not measured again in that case.

    `file_of` names the file of bodies for a server in a case. `seconds` is the length of one repetition; each
    server and case is warmed up before the first one. Before that, `check` raises WrongAnswer for a server
    that must not be timed. All servers are paused at the end; resume a server before sending it anything.
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
                        warm_up(server, file, case.connections, warm_up_seconds, core)
                    point = run_wrk(server, file, case.connections, seconds, core)
                    found.setdefault(key, []).append(point)
                except (MeasurementError, WrongAnswer) as error:
                    failures[key] = str(error)
                finally:
                    time.sleep(SECONDS_TO_SETTLE)
                    server.pause()
            if tell is not None:
                tell(f"round {repetition + 1} of {repetitions}: {case}")
    return {key: median(points) for key, points in found.items()}, failures


def check_all_answered(points: Mapping[Key, Point], failures: Mapping[Key, str]) -> None:
    """Raises MeasurementError for what failed, and for an answer that was no success."""
    for (name, case), reason in failures.items():
        raise MeasurementError(f"{name} at {case}: {reason}")
    for (name, case), point in points.items():
        if point.errors:
            raise MeasurementError(
                f"{name} must answer every request with success (got {point.errors} errors at {case})"
            )


def warm_up(server: Server, bodies: Path, connections: int, seconds: int, core: int | None) -> None:
    """One run that does not count; none for 0 seconds. Raises MeasurementError as `run_wrk` does."""
    if seconds:
        run_wrk(server, bodies, connections, seconds, core)


def run_wrk(server: Server, bodies: Path, connections: int, seconds: int, core: int | None) -> Point:
    """One run, on `core` if given.

    Raises MeasurementError if wrk fails, or no request is answered with status 200.
    """
    command = [*pinned(core), "wrk", "--threads", "1", "--connections", str(connections)]
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
    """The figures that wrk printed, as a point. Raises MeasurementError if no answer had status 200."""
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
    """The median of each figure, where it is known; errors add up."""
    columns = {name: [asdict(point)[name] for point in points] for name in asdict(points[0])}
    errors = sum(columns.pop("errors"))
    known: dict[str, list[float]] = {
        name: [each for each in values if each is not None] for name, values in columns.items()
    }
    medians: dict[str, Any] = {
        name: statistics.median(values) if values else None for name, values in known.items()
    }
    return Point(errors=errors, **medians)
