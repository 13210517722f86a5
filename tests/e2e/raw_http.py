"""Requests as bytes and answers read from a socket, for what no HTTP client would send."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from tests.running import RunningService
from tests.tiny_bundle import tiny_rows

CONTEXT = tiny_rows(1)[0]["context"]


def body_of(candidates: int, identifier: str = "req") -> bytes:
    """A request with so many candidates, as JSON."""
    request = {
        "id": identifier,
        "context": CONTEXT,
        "candidates": [
            {"id": str(number), "features": {"ad": f"a{number % 10}"}} for number in range(candidates)
        ],
    }
    return json.dumps(request).encode()


def message(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """POST /predict of `body`, whose declared length may be another."""
    lines = ["POST /predict HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON body of one answer; not a byte of the next is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(1)
        assert received, f"the connection closed after {head!r}"
        head += received
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        received = connection.recv(int(headers["content-length"]) - len(body))
        assert received, "the connection closed within the body"
        body += received
    return int(first.split()[1]), headers, json.loads(body)


def taken_connections(service: RunningService, count: int) -> list[socket.socket]:
    """Connections that were answered once: the service has taken them from the backlog, and reads them."""
    connections = [service.connect() for _ in range(count)]
    for connection in connections:
        connection.sendall(message(body_of(1)))
        assert read_answer(connection)[0] == 200
    return connections


def reset(connection: socket.socket) -> None:
    """Close as a killed client's machine does: a reset, no farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Ask until the answer is yes; fails after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
