"""Overload: more requests than a server can answer, in an open loop and in a closed one.

A server that sheds well answers as many as at its peak, soon enough, and refuses the others at little cost.
Goodput is a share of the peak of the same minute; on a machine with other work, look at the shares of
processor time beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from loadtest.faults.ground import Ground
from loadtest.faults.scenario import Figures, Wanted, at_least, at_most, exactly, scenario
from loadtest.load.closed_loop import Point
from loadtest.load.open_client import Figures as OpenFigures
from loadtest.load.open_client import OpenLoad
from loadtest.processes.server import Server

MULTIPLES = (3, 10)
# More connections have no effect on the peak, and more rows would fill the service's queue.
PEAK_CONNECTIONS, PEAK_ROWS = (32, 128), 10_000
# After the load, until a request counts as lost that has no answer.
DRAIN_SECONDS = 20.0
# An exchange whose connections are all busy bids elsewhere.
GIVE_UP_MS = 5.0
TMAX_MS = 50
# Without `tmax_ms`: what `--max-queue-ms` lets a request wait by default, and as much for its way.
MOST_P99_MS = 100.0
MOST_REFUSAL_US = 10.0
# Fewer refusals than this say nothing about what one costs.
FEWEST_REFUSALS = 2000
NORMAL_SHARE = 0.3
NORMAL_CONNECTIONS = 64
# Below so much, a p99 after the load is as good as the one before it.
UNIMPORTANT_P99_MS = 5.0


def overload(ground: Ground, candidates: int, tmax_ms: int | None = None) -> Figures:
    """The figures of MULTIPLES of the peak; and how soon afterwards a normal load is answered as before."""
    plain = ground.requests(candidates)
    bodies = ground.write(plain, "plain")
    hasty = bodies if tmax_ms is None else ground.write([with_tmax(each, tmax_ms) for each in plain], "hasty")
    with ground.serving() as server:
        peak = peak_of(ground, server, bodies, candidates)
        figures = {"peak/s": peak.requests_a_second}
        normal = OpenLoad(
            NORMAL_SHARE * peak.requests_a_second, ground.scaled(4.0), NORMAL_CONNECTIONS, give_up_ms=1000.0
        )
        before = ground.open_loop(normal, server, bodies)["p99_ms"]
        for multiple in MULTIPLES:
            rate = multiple * peak.requests_a_second
            load = OpenLoad(
                rate,
                ground.scaled(6.0),
                ground.connections,
                drain_seconds=DRAIN_SECONDS,
                give_up_ms=GIVE_UP_MS,
                within_ms=tmax_ms,
            )
            used = server.cpu_seconds()
            found = ground.open_loop(load, server, hasty)
            cpu = difference(server.cpu_seconds(), used)
            time.sleep(1.0)
            after = ground.open_loop(normal, server, bodies)["p99_ms"]
            of_this = _of_load(found, peak, cpu, tmax_ms)
            of_this["p99 a second after / before"] = after / max(before, UNIMPORTANT_P99_MS)
            figures |= {f"{multiple}x: {name}": value for name, value in of_this.items()}
    return figures


def peak_of(ground: Ground, server: Server, bodies: Path, candidates: int) -> Point:
    """The most that the server answers in a closed loop."""
    several = sorted({min(connections, PEAK_ROWS // candidates) for connections in PEAK_CONNECTIONS})
    if ground.is_quick:
        del several[:-1]
    points = [ground.closed_loop(server, bodies, connections, 4.0) for connections in several]
    return max(points, key=lambda point: point.requests_a_second)


def with_tmax(body: bytes, tmax_ms: int) -> bytes:
    """A request that states how long its client waits."""
    return json.dumps({**json.loads(body), "tmax_ms": tmax_ms}).encode()


def difference(after: float | None, before: float | None) -> float:
    """nan where one of them is not known."""
    return math.nan if after is None or before is None else after - before


def _of_load(found: OpenFigures, peak: Point, cpu: float, tmax_ms: int | None) -> Figures:
    """The figures of one load; `cpu` is the server's processor time in it, seconds."""
    answered = found["answered"]
    figures = {
        "asked/s": found["asked_a_second"],
        "sent/s": found["sent_a_second"],
        "client was the limit": found["limited_by_client"],
        "goodput / peak": found["answered_a_second"] / peak.requests_a_second,
        "p99 ms": found["p99_ms"],
        "refused": found["refused"],
        "lost": found["lost"] + found["unanswered"],
    }
    if tmax_ms is not None:
        figures["share within tmax"] = found["within"]
    if peak.cpu_us is not None:
        figures["answers a CPU second / peak"] = answered * peak.cpu_us / 1e6 / max(cpu, 1e-9)
        if found["refused"] >= FEWEST_REFUSALS:
            refusals = cpu - answered * peak.cpu_us / 1e6
            figures["CPU us a refusal"] = max(0.0, refusals) / found["refused"] * 1e6
    return figures


def wanted(tmax_ms: int | None = None) -> list[Wanted]:
    """What is wanted of an overload at every multiple."""
    found = []
    for multiple in MULTIPLES:
        name = f"{multiple}x: "
        found += [
            at_least(f"{name}goodput / peak", 0.9, is_timed=True),
            at_most(f"{name}p99 ms", tmax_ms or MOST_P99_MS, is_timed=True),
            exactly(f"{name}lost", 0),
            at_most(f"{name}CPU us a refusal", MOST_REFUSAL_US, is_timed=True, is_optional=True),
            at_most(f"{name}p99 a second after / before", 2.0, is_timed=True),
        ]
        if tmax_ms is not None:
            found.append(at_least(f"{name}share within tmax", 0.95, is_timed=True))
    return found


Run = Callable[[Ground], Figures]


@scenario(*wanted(), for_any_server=True)
def overload_1(ground: Ground) -> Figures:
    """3 and 10 times the peak, requests of 1 candidate."""
    return overload(ground, 1)


@scenario(*wanted(), for_any_server=True)
def overload_100(ground: Ground) -> Figures:
    """3 and 10 times the peak, requests of 100 candidates."""
    return overload(ground, 100)


@scenario(*wanted(), for_any_server=True)
def overload_500(ground: Ground) -> Figures:
    """3 and 10 times the peak, requests of 500 candidates."""
    return overload(ground, 500)


@scenario(*wanted(TMAX_MS))
def overload_1_tmax(ground: Ground) -> Figures:
    """The same with 1 candidate, by clients that wait for 50 ms."""
    return overload(ground, 1, TMAX_MS)


@scenario(*wanted(TMAX_MS))
def overload_100_tmax(ground: Ground) -> Figures:
    """The same with 100 candidates, by clients that wait for 50 ms."""
    return overload(ground, 100, TMAX_MS)


@scenario(*wanted(TMAX_MS))
def overload_500_tmax(ground: Ground) -> Figures:
    """The same with 500 candidates, by clients that wait for 50 ms."""
    return overload(ground, 500, TMAX_MS)


@scenario(
    at_least("answers a CPU second, 300 / 100 connections", 0.9, is_timed=True),
    at_least("answers at 300 connections", 1),
    for_any_server=True,
)
def closed_loop(ground: Ground) -> Figures:
    """wrk with 100 and 300 connections, 100 candidates: does more waiting work cost more a request?"""
    bodies = ground.write(ground.requests(100), "bodies")
    with ground.serving() as server:
        few, many = (ground.closed_loop(server, bodies, connections, 6.0) for connections in (100, 300))
    figures = {
        "answers/s at 100": few.requests_a_second,
        "answers at 300 connections": many.requests_a_second,
        "other answers at 300": float(many.errors),
    }
    if few.cpu_us and many.cpu_us:
        figures["answers a CPU second, 300 / 100 connections"] = few.cpu_us / many.cpu_us
    return figures
