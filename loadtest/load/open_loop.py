"""Sends bid requests at a fixed rate with Poisson arrivals, and counts latency from when each was due.

An open loop: a request is sent when it is due, whether others were answered or not, as an exchange does. Its
latency starts at that moment, not when a connection was free or this client got to it, so a stall of the
server counts for every request due in it (no coordinated omission).

The client is one thread with plain sockets and epoll. Its ceiling is its own time a request, tens of
microseconds for a small one. It measures itself: `lag` is how late it sent a request that was due, `busy` the
share of time in which it had work. A run is marked as limited by the client if lag is a considerable part of
the latency or the client had no idle time.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

# A lag below either of these does not matter.
UNIMPORTANT_MS, UNIMPORTANT_SHARE = 0.1, 0.1
MOST_BUSY = 0.95
# A sleep ends late by about this much, so the end of each wait is a busy loop.
_SPUN_SECONDS = 0.0001
_RECEIVE = 1 << 18


@dataclass(frozen=True)
class OpenPoint:
    """The result of one rate. A request never answered counts in the percentiles with the age it reached."""

    asked_a_second: float
    answered_a_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: int
    unanswered: int
    lag_p99_ms: float
    busy: float

    @property
    def limited_by_client(self) -> bool:
        """Whether the client was so late that the p99 is partly its own, or had no idle time."""
        late = self.lag_p99_ms > max(UNIMPORTANT_MS, UNIMPORTANT_SHARE * self.p99_ms)
        return late or self.busy > MOST_BUSY


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which requests are due; the gaps are exponential with mean 1/rate."""
    draw, due, now = random.Random(seed), [], 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        due.append(now)
    return due


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed; nan without values."""
    if not ordered:
        return math.nan
    return ordered[max(1, math.ceil(len(ordered) * percent / 100.0)) - 1]


@dataclass(eq=False)
class _Connection:
    """A connection with at most one request under way, due at `due`."""

    socket: socket.socket
    due: float = 0.0
    received: bytes = b""
    length: int = 0


@dataclass
class _Run:
    """The requests of one run and their results; all times are of `perf_counter`."""

    address: tuple[str, int]
    requests: Sequence[bytes]
    due: Sequence[float]
    drain_seconds: float
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: int = 0
    last_answer: float = 0.0
    idle: float = 0.0
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.free: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.next = self.sent = 0

    def connect(self) -> None:
        connection = _Connection(socket.create_connection(self.address, timeout=5.0))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.poll.register(connection.socket, select.EPOLLIN)
        self.connections[connection.socket.fileno()] = connection
        self.free.append(connection)

    def drive(self) -> None:
        """Send all requests, then wait up to `drain_seconds` for missing answers."""
        began, end = perf_counter(), self.due[-1] + self.drain_seconds
        while self.next < len(self.due) or len(self.free) < len(self.connections) or self.waiting:
            now = perf_counter()
            if now >= end:
                break
            now = self.send_due(now)
            gap = (self.due[self.next] if self.next < len(self.due) else end) - now
            if gap > 2 * _SPUN_SECONDS:  # epoll's own timeout is in whole milliseconds
                select.select([self.poll], [], [], gap - _SPUN_SECONDS)
                slept = perf_counter()
                self.idle += slept - now
                now = slept
            events = self.poll.poll(0)
            if not events:
                self.idle += perf_counter() - now
            for number, _ in events:
                self.receive(self.connections[number])
                self.send_due(perf_counter())
        self.busy = 1.0 - self.idle / (perf_counter() - began)

    def send_due(self, now: float) -> float:
        """Send the requests that are due; the time afterwards."""
        while self.next < len(self.due) and self.due[self.next] <= now:
            due = self.due[self.next]
            self.lags.append(now - due)
            self.next += 1
            if self.free:
                self.send(self.free.pop(), due)
                now = perf_counter()
            else:
                self.waiting.append(due)
        return now

    def send(self, connection: _Connection, due: float) -> None:
        connection.due = due
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        try:
            connection.socket.sendall(request)
        except OSError:
            self.lose(connection)

    def receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE)
        except OSError:
            data = b""
        if not data:
            self.lose(connection)
            return
        received = connection.received + data if connection.received else data
        if not connection.length:
            connection.length = answer_length(received)
        if not connection.length or len(received) < connection.length:
            connection.received = received
            return
        now = perf_counter()
        if received[9:12] == b"200":
            self.latencies.append(now - connection.due)
            self.last_answer = now
        else:
            self.errors += 1
        connection.received, connection.length = b"", 0
        self.reuse(connection)

    def reuse(self, connection: _Connection) -> None:
        if self.waiting:
            self.send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def lose(self, connection: _Connection) -> None:
        """The server closed it: a request under way is an error, and a new connection takes its place."""
        busy = connection not in self.free
        self.errors += busy
        if not busy:
            self.free.remove(connection)
        del self.connections[connection.socket.fileno()]
        self.poll.unregister(connection.socket)
        connection.socket.close()
        self.connect()
        self.reuse(self.free.pop())

    def close(self) -> None:
        for connection in self.connections.values():
            connection.socket.close()
        self.poll.close()


def answer_length(received: bytes) -> int:
    """Bytes of the whole answer, 0 until its head is complete. Raises ValueError without Content-Length."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    for line in received[:end].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return end + 4 + int(value)
    raise ValueError(f"an answer must have a Content-Length (got {received[:end]!r})")


def measure(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    connections: int,
    path: str = "/predict",
    headers: Sequence[str] = (),
    seed: int = 0,
    drain_seconds: float = 2.0,
) -> OpenPoint:
    """One run. Raises OSError if it cannot connect, ValueError for answers that it cannot read."""
    parts = urlsplit(url)
    head = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json", *headers]
    requests = [
        "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body for body in bodies
    ]
    planned = arrivals(rate, seconds, seed) or [0.0]
    run = _Run((parts.hostname or "", parts.port or 80), requests, [], drain_seconds)
    try:
        for _ in range(connections):
            run.connect()
        gc.disable()
        start = perf_counter() + 0.05
        run.due = [start + due for due in planned]
        run.drive()
    finally:
        gc.enable()
        run.close()
    return _summary(run, rate, perf_counter(), start)


def _summary(run: _Run, rate: float, now: float, start: float) -> OpenPoint:
    unanswered = [
        now - due
        for due in (
            *(each.due for each in run.connections.values() if each not in run.free),
            *run.waiting,
            *run.due[run.next :],
        )
    ]
    latencies, lags = sorted([*run.latencies, *unanswered]), sorted(run.lags)
    lasted = max(run.last_answer - start, 1e-9)
    return OpenPoint(
        asked_a_second=rate,
        answered_a_second=len(run.latencies) / lasted,
        p50_ms=percentile(latencies, 50.0) * 1e3,
        p99_ms=percentile(latencies, 99.0) * 1e3,
        p999_ms=percentile(latencies, 99.9) * 1e3,
        errors=run.errors,
        unanswered=len(unanswered),
        lag_p99_ms=percentile(lags, 99.0) * 1e3,
        busy=run.busy,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.load.open_loop", description=__doc__)
    add = parser.add_argument
    add("url", help="the server, such as http://127.0.0.1:8000")
    add("--bodies", type=Path, required=True, metavar="FILE", help="bodies of requests, one a line")
    add("--rate", type=float, required=True, metavar="N", help="requests a second")
    add("--seconds", type=float, default=5.0, metavar="N", help="how long to send")
    add("--connections", type=int, default=128, metavar="N", help="requests under way at most")
    add("--path", default="/predict", help="where to POST")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header more; repeatable")
    add("--seed", type=int, default=0, metavar="N", help="of the arrivals")
    options = parser.parse_args()
    try:
        point = measure(
            options.url,
            options.bodies.read_bytes().splitlines(),
            rate=options.rate,
            seconds=options.seconds,
            connections=options.connections,
            path=options.path,
            headers=options.header,
            seed=options.seed,
        )
    except (OSError, ValueError) as error:
        print(f"open_loop: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**asdict(point), "limited_by_client": point.limited_by_client}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
