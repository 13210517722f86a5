"""Requests as bytes and answers read from a socket, for what HTTP clients do not send."""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.running import RunningService
from tests.tiny_bundle import tiny_rows

CONTEXT = tiny_rows(1)[0]["context"]
FLOOD_THREADS = 4
LONGEST_PAUSE = 0.01

T = TypeVar("T", bound=Hashable)


def body_of(candidates: int, identifier: str = "req") -> bytes:
    """A JSON request with that many candidates."""
    request = {
        "id": identifier,
        "context": CONTEXT,
        "candidates": [
            {"id": str(number), "features": {"ad": f"a{number % 10}"}} for number in range(candidates)
        ],
    }
    return json.dumps(request).encode()


def message(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """POST /predict with `body`; `length` overrides its Content-Length."""
    lines = ["POST /predict HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON body of one answer; bytes of the next answer stay in the socket."""
    head = b""
    while isinstance(connection, ssl.SSLSocket) and not head.endswith(b"\r\n\r\n"):  # which cannot peek
        received = connection.recv(1)
        assert received, f"the connection closed after {head!r}"
        head += received
    while not head.endswith(b"\r\n\r\n"):
        peeked = head + connection.recv(4096, socket.MSG_PEEK)
        assert peeked != head, f"the connection closed after {head!r}"
        end = peeked.find(b"\r\n\r\n")
        head += connection.recv((len(peeked) if end < 0 else end + 4) - len(head))
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        received = connection.recv(int(headers["content-length"]) - len(body))
        assert received, "the connection closed within the body"
        body += received
    return int(first.split()[1]), headers, json.loads(body)


def taken_connections(service: RunningService, count: int) -> list[socket.socket]:
    """Connections that were answered once: the service has accepted them and reads from them."""
    connections = [service.connect() for _ in range(count)]
    for connection in connections:
        connection.sendall(message(body_of(1)))
        assert read_answer(connection)[0] == 200
    return connections


def flood(
    connections: Sequence[socket.socket],
    request: bytes,
    rounds: int,
    told: Callable[[int, dict[str, str], Any], T],
) -> Counter[T]:
    """Send a request over all connections at once, and again when they are answered; count the answers.

    What they count as is `told` from the status, the headers and the body of each, in any of FLOOD_THREADS.
    """
    barrier = threading.Barrier(FLOOD_THREADS)

    def flood_some(some: Sequence[socket.socket]) -> Counter[T]:
        barrier.wait()
        found = Counter[T]()
        for _ in range(rounds):
            for connection in some:
                connection.sendall(request)
            for connection in some:
                found[told(*read_answer(connection))] += 1
        return found

    with ThreadPoolExecutor(FLOOD_THREADS) as pool:
        parts = [connections[start::FLOOD_THREADS] for start in range(FLOOD_THREADS)]
        return sum(pool.map(flood_some, parts), Counter[T]())


@contextmanager
def kept_sending(service: RunningService, clients: int) -> Iterator[list[tuple[int, str]]]:
    """Clients that send a request after the other meanwhile; statuses and bundles of the answers so far.

    Each keeps its connection until it is told to close it. What changes meanwhile finds requests that are
    under way and connections that wait for the next one: pauses differ in length. Raises what failed for a
    client, at the end.
    """
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()
    pauses = random.Random(0)

    def keep_sending() -> None:
        while not is_over.is_set():
            with service.connect() as connection:
                is_kept = True
                while is_kept and not is_over.is_set():
                    connection.sendall(message(body_of(1)))
                    status, headers, answer = read_answer(connection)
                    answers.append((status, answer["bundle"]))
                    is_kept = headers.get("connection") != "close"
                    is_over.wait(pauses.uniform(0.0, LONGEST_PAUSE))

    with ThreadPoolExecutor(clients) as pool:
        sending = [pool.submit(keep_sending) for _ in range(clients)]
        try:
            yield answers
        finally:
            is_over.set()
        for each in sending:
            each.result()


def reset(connection: socket.socket) -> None:
    """Close with a reset, as the machine of a killed client does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {seconds} s"
        time.sleep(0.02)
