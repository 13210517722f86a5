"""wrk -> requests a second, p50 and p99 of a server at so many connections; it knows no server's inside.

A closed loop: each connection sends again as soon as it is answered, so the figures are what the server can
do, and the latency is that of a server with no time to spare. Repetitions of the contenders alternate, so
that a neighbour's noise meets all of them, and the median counts.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bid_requests import BidRequestMaker
from loadtest.server_process import Server

SCRIPT = Path(__file__).with_suffix(".lua")
BODIES = 256


@dataclass(frozen=True)
class Point:
    """What a server did at one size of request and one number of connections.

    `cpu_us` is its processor time a request: what it costs, whoever else uses the machine; None if unknown.
    """

    requests_a_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None


@dataclass(frozen=True)
class Case:
    """A size of request and a number of connections."""

    candidates: int
    connections: int


class MeasurementError(RuntimeError):
    """wrk did not run, or the server did not answer every request with success."""


def missing(tools: Iterable[str]) -> list[str]:
    """Which of these programs are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None]


def write_bodies(maker: BidRequestMaker, sizes: Iterable[int], folder: Path) -> dict[int, Path]:
    """A file of bodies, one a line, for each size of request."""
    files = {}
    for size in sizes:
        files[size] = folder / f"bodies.{size}.jsonl"
        files[size].write_bytes(b"".join(maker.make(size).body + b"\n" for _ in range(BODIES)))
    return files


def measure(
    servers: Mapping[str, Server],
    cases: Sequence[Case],
    bodies: Mapping[int, Path],
    *,
    seconds: int,
    repetitions: int,
    core: int,
) -> dict[tuple[str, Case], Point]:
    """The median point of every server in every case, with wrk held on `core`.

    `seconds` is one repetition's; the first second of each server and case warms up and is not counted.
    Raises MeasurementError.
    """
    found: dict[tuple[str, Case], list[Point]] = {}
    for repetition in range(repetitions):
        for case in cases:
            for name, server in servers.items():
                if repetition == 0:
                    _run_wrk(server, bodies[case.candidates], case.connections, 1, core)
                point = _run_wrk(server, bodies[case.candidates], case.connections, seconds, core)
                found.setdefault((name, case), []).append(point)
    return {key: _median(points) for key, points in found.items()}


def _run_wrk(server: Server, bodies: Path, connections: int, seconds: int, core: int) -> Point:
    command = ["taskset", "--cpu-list", str(core), "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT)]
    command += [server.url, "--", str(bodies)]
    before = server.cpu_seconds()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    after = server.cpu_seconds()
    if run.returncode != 0:
        raise MeasurementError(f"wrk failed: {(run.stderr or run.stdout).strip()[-300:]}")
    figures = json.loads(run.stdout.splitlines()[-1])
    if figures["refused"] or figures["broken"] or not figures["answers"]:
        raise MeasurementError(
            f"{server.url} must answer every request with success (got {figures['answers']} answers, "
            f"{figures['refused']} of them errors, {figures['broken']} broken connections)"
        )
    cpu_us = None if before is None or after is None else (after - before) / figures["answers"] * 1e6
    return Point(figures["answers"] / figures["seconds"], figures["p50_ms"], figures["p99_ms"], cpu_us)


def _median(points: Sequence[Point]) -> Point:
    return Point(
        statistics.median(point.requests_a_second for point in points),
        statistics.median(point.p50_ms for point in points),
        statistics.median(point.p99_ms for point in points),
        statistics.median(known) if (known := [p.cpu_us for p in points if p.cpu_us is not None]) else None,
    )


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
