"""Requests as bytes, and answers read from a socket: for clients that send what no HTTP library would."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from loadtest.processes.server import PREDICT, Route, Server
from loadtest.traffic.hostile import JSON_TYPE

SECONDS_TO_ANSWER = 20.0


def head_of(length: int, route: Route = PREDICT, *more: str) -> bytes:
    """The head of a bid request whose body has `length` bytes; `more` are lines of it."""
    headers = {"Host": "127.0.0.1", "Content-Type": JSON_TYPE, **route.headers}
    lines = [f"POST {route.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), *more]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1")


def message_of(body: bytes, route: Route = PREDICT, *more: str) -> bytes:
    """A whole bid request."""
    return head_of(len(body), route, *more) + body


def connect(server: Server, seconds: float = SECONDS_TO_ANSWER) -> socket.socket:
    """A new connection, whose calls take at most `seconds`. Raises OSError."""
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=seconds)


def connect_many(server: Server, count: int) -> list[socket.socket]:
    """So many new connections. Raises OSError."""
    return [connect(server) for _ in range(count)]


def read_answer(connection: socket.socket) -> tuple[int, bytes, bool]:
    """Status, body, and whether it is the last answer of the connection, which has one request under way.

    Raises OSError, also for what is no answer.
    """
    try:
        with HTTPResponse(connection, method="POST") as response:
            response.begin()
            body = response.read()
            return response.status, body, bool(response.will_close)
    except HTTPException as error:
        raise ConnectionError(repr(error)) from None


def ask_once(server: Server, message: bytes, seconds: float = SECONDS_TO_ANSWER) -> tuple[int, bytes]:
    """Status and body of the answer to a message over a connection of its own. Raises OSError."""
    with connect(server, seconds) as connection:
        connection.sendall(message)
        status, body, _ = read_answer(connection)
        return status, body


def close_all(connections: Sequence[socket.socket]) -> None:
    """Close them."""
    for connection in connections:
        connection.close()
