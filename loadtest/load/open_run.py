"""The client of the open loop: sends each request when it is due, over connections with one request each.

What a request costs the client is the limit of the rate, so of an answer it reads its head and counts its
bytes, and a head that it has seen before is not read again.
"""

from __future__ import annotations

import math
import select
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

# A sleep ends late by about this much, so the end of each wait is a busy loop.
_SPUN_SECONDS = 0.0001
_RECEIVE = 1 << 18
_CONNECT_SECONDS = 5.0
# Heads of answers differ in few things, their length among them: as many are remembered.
_MOST_HEADS = 4096


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection with at most one request under way, due at `due`; `rest` of it is not sent yet."""

    socket: socket.socket
    due: float = 0.0
    is_free: bool = True
    received: bytes = b""
    rest: memoryview | None = None


@dataclass
class Run:
    """The requests of one run and their results; all times are of `perf_counter`."""

    address: tuple[str, int]
    requests: Sequence[bytes]
    due: Sequence[float]
    drain_seconds: float
    give_up: float = math.inf
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: int = 0
    refused: int = 0
    lost: int = 0
    unsent: int = 0
    last_answer: float = 0.0
    idle: float = 0.0
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.free: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.heads: dict[bytes, Head] = {}
        self.next = self.sent = 0

    def connect(self) -> None:
        opened = socket.create_connection(self.address, timeout=_CONNECT_SECONDS)
        opened.setblocking(False)  # with a timeout, each call would be two of the system
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection = _Connection(opened)
        self.poll.register(opened, select.EPOLLIN)
        self.connections[opened.fileno()] = connection
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
            for number, event in events:
                # An earlier event may have closed it.
                if (connection := self.connections.get(number)) is not None:
                    if event & select.EPOLLOUT:
                        self.send_rest(connection)
                    if event & ~select.EPOLLOUT:
                        self.receive(connection)
                    self.send_due(perf_counter())
        self.busy = 1.0 - self.idle / (perf_counter() - began)

    def send_due(self, now: float) -> float:
        """Send the requests that are due; the time afterwards."""
        while self.next < len(self.due) and (due := self.due[self.next]) <= now:
            self.next += 1
            if now - due > self.give_up:
                self.unsent += 1
            elif self.free:
                self.lags.append(now - due)
                self.send(self.free.pop(), due)
                now = perf_counter()
            else:
                self.lags.append(now - due)
                self.waiting.append(due)
        return now

    def send(self, connection: _Connection, due: float) -> None:
        connection.due, connection.is_free = due, False
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        try:
            written = connection.socket.send(request)
        except BlockingIOError:
            written = 0
        except OSError:  # that it is closed is an event too
            return
        if written < len(request):
            connection.rest = memoryview(request)[written:]
            self.poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def send_rest(self, connection: _Connection) -> None:
        if connection.rest is not None:
            try:
                connection.rest = connection.rest[connection.socket.send(connection.rest) :]
            except OSError:
                return
        if not connection.rest:
            connection.rest = None
            self.poll.modify(connection.socket, select.EPOLLIN)

    def receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose(connection)
            return
        received = connection.received + data if connection.received else data
        end = received.find(b"\r\n\r\n")
        head = self.head_of(received[:end]) if end >= 0 else None
        if head is None or len(received) < end + 4 + head.length:
            connection.received = received
            return
        connection.received = b""
        now = perf_counter()
        if head.status == 200:
            self.latencies.append(now - connection.due)
            self.last_answer = now
        else:
            self.errors += 1
            self.refused += head.status == 429
        if head.is_last or connection.rest is not None:
            self.replace(connection)
        else:
            self.reuse(connection, now)

    def head_of(self, lines: bytes) -> Head:
        head = self.heads.get(lines)
        if head is None:
            if len(self.heads) >= _MOST_HEADS:
                self.heads.clear()
            head = self.heads[lines] = read_head(lines)
        return head

    def reuse(self, connection: _Connection, now: float) -> None:
        while self.waiting:
            due = self.waiting.popleft()
            if now - due <= self.give_up:
                self.send(connection, due)
                return
            self.unsent += 1
        connection.is_free = True
        self.free.append(connection)

    def lose(self, connection: _Connection) -> None:
        """The server closed it: a request under way is an error."""
        if connection.is_free:
            self.free.remove(connection)
        else:
            self.errors += 1
            self.lost += 1
        self.replace(connection)

    def replace(self, connection: _Connection) -> None:
        """Close a connection that is not in `free`; a new one takes its place."""
        del self.connections[connection.socket.fileno()]
        self.poll.unregister(connection.socket)
        connection.socket.close()
        self.connect()
        self.reuse(self.free.pop(), perf_counter())

    def close(self) -> None:
        for connection in self.connections.values():
            connection.socket.close()
        self.poll.close()


@dataclass(frozen=True, slots=True)
class Head:
    """Of an answer: its status, the length of its body, and whether the connection closes after it."""

    status: int
    length: int
    is_last: bool


def read_head(lines: bytes) -> Head:
    """The lines of a head, without the empty one. Raises ValueError without Content-Length."""
    status, *rest = lines.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in rest)}
    if b"content-length" not in headers:
        raise ValueError(f"an answer must have a Content-Length (got {lines!r})")
    is_last = headers.get(b"connection", b"").lower() == b"close"
    return Head(int(status.split()[1]), int(headers[b"content-length"]), is_last)
