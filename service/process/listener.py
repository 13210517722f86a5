"""Accepts the connections of one listening socket, as many as there are files for; it knows no request.

uvloop's own server resets connections when files are short, and any other error of `accept` closes its socket
for good, without a word. Here connections wait in the kernel until there is room.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from service.http.connection import HttpConnection

logger = logging.getLogger("bidlight")

# Files that are not connections: bundles that are read anew, stores, logs, the event loop's own.
RESERVED_FILES = 64
# How many connections are accepted before others are read from.
ACCEPTS_AT_ONCE = 64
# The same while requests wait: to open a connection takes as long as to answer a small request.
ACCEPTS_WHEN_BEHIND = 4
PAUSE_SECONDS = 0.1
# How many connections that wait for their clients are closed in a pause: whoever keeps many open keeps
# nobody else out; and how long a request that has begun may take then.
CLOSED_AT_ONCE = 32
SLOW_SECONDS = 5.0
# How long a TLS handshake may take, and its end: until then a connection can make no room for others.
HANDSHAKE_SECONDS = 5.0
GOODBYE_SECONDS = 1.0

# Why new connections wait: as many are open as there may be, or the system refuses another.
CONNECTIONS, SYSTEM = "connections", "system"


def most_connections() -> int:
    """How many connections the limit of open files leaves room for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(files - RESERVED_FILES, files // 2)


class Listener:
    """Takes the place of an asyncio.Server. `make` makes a protocol; it and its like are in `connections`.

    `on_pause` gets the reason whenever new connections have to wait. Closing, it accepts at most `rest`
    of those that wait. `tls` is asked for each connection, so that a certificate can be replaced; None is
    plain HTTP. `spare` connections more than there is room for are accepted. While it `is_behind` with
    requests, it accepts few at once.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], HttpConnection],
        connections: Collection[Any],
        on_pause: Callable[[str], object],
        rest: int,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        spare: int = 0,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sockets = (listening,)
        self._socket = listening
        self._make = make
        self._connections = connections
        self._on_pause = on_pause
        self._rest = rest
        self._tls = tls
        self._spare = spare
        self._is_behind = is_behind
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._is_closed = False
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept the rest, tell them to shut down after their requests, and stop listening."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        for _ in range(self._rest):
            if self._accept_one() is not None:
                break
        self._socket.close()

    async def wait_closed(self) -> None:
        """Return when no connection is being opened any more."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self) -> None:
        """Accept some of the connections that wait."""
        for number in range(ACCEPTS_WHEN_BEHIND if self._is_behind() else ACCEPTS_AT_ONCE):
            error = self._accept_one()
            if isinstance(error, BlockingIOError | InterruptedError):
                return
            if error is not None:
                if number == 0:  # else nobody may wait any more
                    self._wait(error)
                return

    def _accept_one(self) -> OSError | None:
        """Accept a connection; the reason if that is not possible now."""
        if len(self._connections) + len(self._opening) >= most_connections() + self._spare:
            return ConnectionRefusedError()
        try:
            accepted, _ = self._socket.accept()
        except ConnectionAbortedError:
            return None  # the client has left meanwhile
        except OSError as error:
            return error
        task = self._loop.create_task(self._open(accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return None

    async def _open(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        protocol, tls = self._make(), self._tls()
        limits = (
            {}
            if tls is None
            else {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": GOODBYE_SECONDS}
        )
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=tls, **limits)
        except OSError:  # the client has left, or its handshake failed
            accepted.close()
            return
        if self._is_closed:
            protocol.shutdown()

    def _wait(self, error: OSError) -> None:
        """Let new connections wait for a moment: until then `accept` would only fail again."""
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)
        is_full = isinstance(error, ConnectionRefusedError)
        self._on_pause(CONNECTIONS if is_full else SYSTEM)
        if is_full:
            logger.warning(
                "new connections wait: %d are open, as many as the limit of open files allows; raise it "
                "(ulimit -n)",
                len(self._connections),
            )
            close_longest_waiting(self._connections, self._loop.time())
        else:
            logger.error("new connections wait: the system accepts none (%s)", error.strerror or error)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)


def close_longest_waiting(connections: Iterable[HttpConnection], now: float) -> None:
    """Close the connections that have waited longest for their clients, CLOSED_AT_ONCE of them.

    One whose request has begun may take SLOW_SECONDS; an idle one waits from its last answer on.
    """
    waiting = []
    for number, connection in enumerate(connections):
        since = connection.waits_since
        if since is not None and (connection.is_idle or now - since > SLOW_SECONDS):
            waiting.append((since, number, connection))
    for _, _, connection in heapq.nsmallest(CLOSED_AT_ONCE, waiting):
        connection.transport.close()
