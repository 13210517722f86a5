"""Asks a running service through its control socket; it knows no command line."""

from __future__ import annotations

import os
import socket
import time
from types import TracebackType
from typing import Self

from service.control.protocol import Answer, Command, answer_of, line_of

# The answer to `status` grows with the arms.
MAX_ANSWER_BYTES = 16 << 20
RETRY_SECONDS = 0.02


class Unreachable(Exception):
    """No service answers at the socket; the message says why, and what to do."""


class ControlClient:
    """A connection to the service at `path`, as a context. Raises Unreachable."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(seconds)
        try:
            self._connect(seconds)
        except OSError as error:
            self._socket.close()
            raise _unreachable(path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _connect(self, seconds: float) -> None:
        """Raises OSError. Where too many wait already, a Unix socket lets nobody wait: EAGAIN."""
        until = time.monotonic() + seconds
        while True:
            try:
                self._socket.connect(self._path)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)

    def ask(self, command: Command) -> Answer:
        """The answer to a command. Raises Unreachable, MalformedBody."""
        received = bytearray()
        try:
            self._socket.sendall(line_of(command))
            while not received.endswith(b"\n"):
                part = self._socket.recv(1 << 20)
                if not part or len(received) > MAX_ANSWER_BYTES:
                    raise Unreachable(f"the service at {self._path} closed the connection; ask again")
                received += part
        except OSError as error:
            raise _unreachable(self._path, error) from None
        return answer_of(bytes(received))


def _unreachable(path: str, error: OSError) -> Unreachable:
    match error:
        case FileNotFoundError():
            return Unreachable(
                f"there is no socket at {path}; start the service with --control-socket {path}"
            )
        case PermissionError():
            return Unreachable(
                f"user {os.geteuid()} may not open {path}; ask as the user of the service (sudo -u)"
            )
        case ConnectionRefusedError():
            return Unreachable(f"no process answers at {path}: its service has ended; start it again")
        case TimeoutError() | BlockingIOError():
            return Unreachable(
                f"the service at {path} does not answer in time; it reads bundles, or hangs: ask again"
            )
    return Unreachable(f"the service at {path} cannot be asked: {error.strerror or error}")
