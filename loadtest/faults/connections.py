"""Connections that are held, flooded, broken or too many: none of them takes the service or its memory."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from loadtest.faults.ground import (
    MOST_STALL_MS,
    PLANNED,
    Ground,
    limit,
    lines_of,
    memory_growth,
    watching_memory,
)
from loadtest.faults.scenario import Figures, at_most, exactly, scenario
from loadtest.processes import tree
from loadtest.traffic.malformed import MALFORMED
from loadtest.traffic.messages import (
    ask_once,
    close_all,
    connect,
    connect_many,
    head_of,
    message_of,
    read_answer,
)

LARGE_BYTES = 900_000
MOST_FLOOD_MB = 50.0
KEEP_ALIVE = ("--keep-alive-seconds", "2")


@scenario(
    at_most("memory growth MB", MOST_FLOOD_MB),
    exactly("others lost", 0),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
    for_any_server=True,
)
def pipelining(ground: Ground) -> Figures:
    """20 connections that send requests without end and read no answer."""
    message = message_of(ground.requests(10)[0], ground.subject.contender.route)
    many = message * (1_000_000 // len(message))
    with ground.serving() as server:
        connections = connect_many(server, 20)
        with watching_memory(server) as memory, ground.others(server) as figures:
            sent = _flood(connections, many, ground.scaled(6.0))
        close_all(connections)
    return {"memory growth MB": memory.growth, "sent MB": sent / 1e6, **figures}


def _flood(connections: Sequence[socket.socket], many: bytes, seconds: float) -> int:
    """Send as much as the server takes; bytes."""
    total, at = 0, dict.fromkeys(connections, 0)
    for connection in connections:
        connection.setblocking(False)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for connection in list(at):
            try:
                sent = connection.send(many[at[connection] :])
            except BlockingIOError:
                continue
            except OSError:
                del at[connection]
                continue
            total += sent
            at[connection] = (at[connection] + sent) % len(many)
        time.sleep(0.01)
    return total


def _idle(ground: Ground, body: bytes, count: int) -> Figures:
    """KB that each of `count` idle connections keeps which has had one answer to `body`."""
    message = message_of(body, ground.subject.contender.route)
    unanswered = 0
    with ground.serving() as server:
        with contextlib.suppress(OSError):
            for _ in range(3):  # what the server takes for one such request is there then
                ask_once(server, message)
        before = server.memory_mb()
        connections = []
        for _ in range(count):
            connections.append(connect(server))
            try:
                connections[-1].sendall(message)
                read_answer(connections[-1])
            except OSError:
                unanswered += 1
        growth = memory_growth(server, before)
        close_all(connections)
    return {"KB a connection": growth * 1000 / count, "connections": count, "unanswered": unanswered}


@scenario(at_most("KB a connection", 200), exactly("unanswered", 0), for_any_server=True)
def idle_after_large(ground: Ground) -> Figures:
    """Connections that stay open after a request of 900 KB."""
    names = {f"u{number}": number for number in range(60_000)}
    body = json.dumps({**json.loads(ground.requests(1)[0]), "context": names}).encode()
    return _idle(ground, body, max(40, ground.times(100)))


@scenario(at_most("KB a connection", 32), exactly("unanswered", 0), for_any_server=True)
def idle_after_ordinary(ground: Ground) -> Figures:
    """Connections that stay open after a request of 100 candidates."""
    return _idle(ground, ground.requests(100)[0], max(300, ground.times(1000)))


@scenario(
    exactly("still open", 0),
    exactly("others lost", 0),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
    for_any_server=True,
)
def slow_heads(ground: Ground) -> Figures:
    """Hundreds of clients that send a byte of their head at a time."""
    return _slow(ground, head_of(10, ground.subject.contender.route))


@scenario(
    exactly("still open", 0),
    exactly("others lost", 0),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
    for_any_server=True,
)
def slow_bodies(ground: Ground) -> Figures:
    """Hundreds of clients that send a byte of their body at a time."""
    message = message_of(ground.requests(10)[0], ground.subject.contender.route)
    return _slow(ground, message, message.index(b"\r\n\r\n") + 4)


def _slow(ground: Ground, message: bytes, at: int = 5, seconds: float = 6.0) -> Figures:
    """Send the first `at` bytes of a message, then one by one, for thrice the time that is allowed."""
    with ground.serving(*KEEP_ALIVE) as server:
        slow = connect_many(server, max(100, ground.times(400)))
        for connection in slow:
            connection.sendall(message[:at])
            connection.setblocking(False)
        with ground.others(server, seconds) as figures:
            until = time.monotonic() + seconds
            for byte in message[at:]:
                slow = [each for each in slow if _sends(each, bytes([byte]))]
                if time.monotonic() > until:
                    break
                time.sleep(0.25)
        still_open = len(slow)
        close_all(slow)
    return {"still open": still_open, **figures}


def _sends(connection: socket.socket, data: bytes) -> bool:
    """Whether a connection takes the bytes, and its other end neither closed it nor answered."""
    try:
        connection.send(data)
        connection.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    connection.close()
    return False


@scenario(
    at_most("memory growth MB", 100),
    exactly("others lost", 0),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
    for_any_server=True,
)
def stopped_bodies(ground: Ground) -> Figures:
    """200 clients that stop within a body of 1 MB."""
    message = head_of(1_000_000, ground.subject.contender.route) + b" " * LARGE_BYTES
    with ground.serving() as server:
        with watching_memory(server) as memory, ground.others(server) as figures:
            stopped = connect_many(server, max(100, ground.times(200)))
            for connection in stopped:
                connection.setblocking(False)
            left = dict.fromkeys(stopped, message)
            until = time.monotonic() + ground.scaled(6.0)
            while left and time.monotonic() < until:
                for connection in list(left):
                    try:
                        left[connection] = left[connection][connection.send(left[connection]) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        left[connection] = b""
                    if not left[connection]:
                        del left[connection]
                time.sleep(0.01)
        close_all(stopped)
    return {"memory growth MB": memory.growth, **figures}


@scenario(exactly("waiting, unanswered", 0), at_most("log lines", 8), for_any_server=True)
def file_limit(ground: Ground) -> Figures:
    """A low limit of open files, all taken by clients that stop within a head: others wait for room."""
    message = message_of(ground.requests(1)[0], ground.subject.contender.route)
    with ground.serving() as server:
        files = max(_open_files(process) for process in tree.living(tree.members(server.process_id)))
        limit(server, resource.RLIMIT_NOFILE, files + 130)
        lines = lines_of(server)
        held = connect_many(server, 120)
        for connection in held:
            connection.sendall(message[:20])
        waiting = connect_many(server, 40)
        for connection in waiting:
            connection.sendall(message)
        time.sleep(2.0)
        close_all(held[:60])
        unanswered = 0
        for connection in waiting:
            with contextlib.closing(connection):
                try:
                    unanswered += read_answer(connection)[0] != 200
                except OSError:
                    unanswered += 1
        close_all(held[60:])
        logged = lines_of(server) - lines
    return {"waiting, unanswered": unanswered, "log lines": logged}


def _open_files(process: int) -> int:
    try:
        return len(list(Path(f"/proc/{process}/fd").iterdir()))
    except OSError:
        return 0


@scenario(
    exactly("unplanned answers", 0),
    exactly("hanging", 0),
    exactly("good ones unanswered", 0),
    at_most("log lines", 2),
    for_any_server=True,
)
def malformed_http(ground: Ground) -> Figures:
    """Messages that are no HTTP, or HTTP that was made up to confuse; a good request after each."""
    good = message_of(ground.requests(1)[0], ground.subject.contender.route)
    unplanned = hanging = unanswered = 0
    with ground.serving() as server:
        lines = lines_of(server)
        for message in MALFORMED:
            with connect(server, 2.0) as connection:
                try:
                    connection.sendall(message)
                    connection.shutdown(socket.SHUT_WR)
                    unplanned += read_answer(connection)[0] not in PLANNED
                except TimeoutError:
                    hanging += 1
                except OSError:  # closed without an answer
                    pass
            try:
                unanswered += ask_once(server, good)[0] != 200
            except OSError:
                unanswered += 1
        logged = lines_of(server) - lines
    return {
        "messages": len(MALFORMED),
        "unplanned answers": unplanned,
        "hanging": hanging,
        "good ones unanswered": unanswered,
        "log lines": logged,
    }


@scenario(exactly("wrong statuses", 0), for_any_server=True)
def refused_then_more(ground: Ground) -> Figures:
    """A refused body with another head behind it in its packet, and another client that pipelines."""
    route = ground.subject.contender.route
    good = message_of(ground.requests(1)[0], route)
    wrong = 0
    with ground.serving() as server:
        for _ in range(ground.times(200)):
            with connect(server) as one, connect(server) as other:
                one.sendall(message_of(b"{", route) + head_of(7, route))
                other.sendall(good + good)
                wrong += statuses(other, 2) != [200, 200]
    return {"wrong statuses": wrong}


def statuses(connection: socket.socket, count: int) -> list[int]:
    """The statuses of the answers on a connection with several requests under way, fewer if it closes."""
    received, found = b"", list[int]()
    while len(found) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if end and len(rest) >= length:
            found.append(int(head.split()[1]))
            received = rest[length:]
            continue
        try:
            data = connection.recv(65536)
        except OSError:
            break
        if not data:
            break
        received += data
    return found
