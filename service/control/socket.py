"""The control socket: a Unix socket that only the service's user may open; it knows no command.

It never waits. Whoever has an event loop, or none, watches one descriptor, `fileno()`, and calls `poll` when
it is readable, and now and then otherwise. A client that sends slowly, too much, or does not read its answer
delays nobody and is cut off.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.control.protocol import MAX_COMMAND_BYTES, Answer, line_of
from service.errors import BadConfiguration, BodyTooLarge, ErrorDetail, ServiceError, Unauthorized
from service.settings import Settings

logger = logging.getLogger("bidlight")

MAX_CONNECTIONS = 16
# How many wait to be accepted; whoever comes then tries again.
BACKLOG = 64
# How long a client may take to send a command, or to read its answer.
PATIENCE_SECONDS = 5.0
# Without a free file descriptor nobody is accepted for so long.
PAUSE_SECONDS = 0.5
ROOT = 0
_RECEIVED_AT_ONCE = 65_536
# struct ucred of Linux: process, user, group.
_CREDENTIALS = struct.Struct("3i")

Answering = Callable[[bytes, int], bytes]
"""A line and the uid of who sent it -> the line to answer. It must not raise."""


@dataclass(eq=False)
class _Connection:
    """A client, what it has sent, what it has not read, and when it is cut off."""

    socket: socket.socket
    user: int
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""


class ControlSocket:
    """Listens at `path`, from its first moment with mode 0600. Raises BadConfiguration.

    What another process has left there is replaced; where a living one answers, this one refuses to start.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connections: list[_Connection] = []
        self._paused_until = 0.0
        self._is_closed = False
        self._listening = _listen(path)
        self._identity = _identity(path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)

    def fileno(self) -> int:
        """What is readable when `poll` has something to do."""
        return self._selector.fileno()

    def poll(self, answering: Answering) -> None:
        """Accept clients, answer their commands, and cut off those that take too long."""
        if self._is_closed:
            return
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listening:
                self._accept_waiting()
            elif key.data in self._connections:  # else it was cut off a moment ago
                self._go_on(key.data, answering)
        now = time.monotonic()
        for connection in [each for each in self._connections if each.deadline < now]:
            self._cut_off(connection)
        if self._paused_until and self._paused_until < now:
            self._paused_until = 0.0
            self._selector.register(self._listening, selectors.EVENT_READ)

    def close(self) -> None:
        """Listen no more, and remove the path unless another process has taken it."""
        if self._is_closed:
            return
        with suppress(OSError):
            if _identity(self._path) == self._identity:
                Path(self._path).unlink()
        self.release()

    def release(self) -> None:
        """Close what a forked process has inherited."""
        self._is_closed = True
        for connection in self._connections:
            connection.socket.close()
        self._connections.clear()
        self._listening.close()
        self._selector.close()

    def _accept_waiting(self) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("no command is accepted for a moment: %s", error)
                self._selector.unregister(self._listening)
                self._paused_until = time.monotonic() + PAUSE_SECONDS
                return
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        """Begin with a client, unless it may not command."""
        accepted.setblocking(False)
        user = _user_of(accepted)
        if user not in (ROOT, os.geteuid()):
            logger.warning("user %d may not open the control socket and is refused", user)
            with suppress(OSError):
                accepted.send(
                    _refusal(Unauthorized("only the user of the service, and root, may command it"))
                )
            accepted.close()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._cut_off(min(self._connections, key=lambda each: each.deadline))
        connection = _Connection(accepted, user, time.monotonic() + PATIENCE_SECONDS)
        self._connections.append(connection)
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _go_on(self, connection: _Connection, answering: Answering) -> None:
        """Read what a client has sent, or write what it has not read."""
        try:
            if connection.unsent:
                self._send(connection)
            else:
                received = connection.socket.recv(_RECEIVED_AT_ONCE)
                if not received:
                    self._cut_off(connection)
                    return
                connection.received += received
            self._answer(connection, answering)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the client has left
            self._cut_off(connection)

    def _answer(self, connection: _Connection, answering: Answering) -> None:
        """Answer the lines that are whole, one after the other, as long as the client reads."""
        while not connection.unsent:
            line, newline, rest = connection.received.partition(b"\n")
            if len(line) > MAX_COMMAND_BYTES:
                error = BodyTooLarge(
                    f"a command must have {MAX_COMMAND_BYTES} bytes at most; name fewer arms"
                )
                connection.socket.send(_refusal(error))
                self._cut_off(connection)
                return
            if not newline:
                return
            connection.received = rest
            connection.unsent = answering(bytes(line), connection.user)
            connection.deadline = time.monotonic() + PATIENCE_SECONDS
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        with suppress(BlockingIOError):
            sent = connection.socket.send(connection.unsent)
            connection.unsent = connection.unsent[sent:]
        events = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
        self._selector.modify(connection.socket, events, connection)

    def _cut_off(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()


@contextmanager
def control_socket(settings: Settings) -> Iterator[ControlSocket | None]:
    """The control socket of the settings, if they have one, removed at the end. Raises BadConfiguration."""
    if not settings.control_socket:
        yield None
        return
    control = ControlSocket(settings.control_socket)
    try:
        yield control
    finally:
        control.close()


def _listen(path: str) -> socket.socket:
    """A socket that listens at `path`. Raises BadConfiguration."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise BadConfiguration(
            "'control_socket' must be unset on this system, which tells no user of a socket"
        )
    listening = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        before = os.umask(0o177)  # a mode set later would leave a moment in which others may connect
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _unusable(path, error.strerror or str(error)) from None
    except BadConfiguration:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that has ended. Raises BadConfiguration for anything else, OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _unusable(path, "something that is no socket")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        # A living process whose queue is full lets nobody wait: EAGAIN.
        found = asking.connect_ex(path)
    if found in (0, errno.EAGAIN):
        raise _unusable(path, "the socket of a living process")
    if found not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(found, os.strerror(found))
    Path(path).unlink(missing_ok=True)


def _unusable(path: str, found: str) -> BadConfiguration:
    return BadConfiguration(
        f"'control_socket' must be a path at which a socket can be made (got {path!r}: {found}); "
        "choose another with --control-socket"
    )


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _user_of(accepted: socket.socket) -> int:
    """The uid of the process at the other end, as it was when that connected."""
    credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user


def _refusal(error: ServiceError) -> bytes:
    return line_of(Answer(error=ErrorDetail(error.code, error.message)))
