"""A real redis-server on a free port, which keeps nothing and can be started again, empty."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from loadtest.processes.machine import pinned
from loadtest.processes.ports import free_port
from loadtest.processes.server import ServerError

SECONDS_TO_START = 20.0


def missing_redis() -> str:
    """What has to be installed to start one; empty if nothing has."""
    return "" if shutil.which("redis-server") else "redis-server must be installed (Debian: redis-server)"


@dataclass
class RedisServer:
    """A server on `core`, or anywhere."""

    core: int | None = None
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `--feature-store`."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it with no data, and wait until it answers. Raises ServerError."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command = [*pinned(self.core), "redis-server", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self.call("PING").startswith(b"+PONG"):
                    return
            time.sleep(0.05)
        raise ServerError(f"redis-server must answer within {SECONDS_TO_START:g} s (it does not)")

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, *words: str | bytes) -> bytes:
        """The first bytes of the reply to a command. Raises OSError."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        command = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS_TO_START) as connection:
            connection.sendall(b"*%d\r\n%b" % (len(parts), command))
            return connection.recv(65536)


@contextmanager
def running_redis(core: int | None = None) -> Iterator[RedisServer]:
    """A new one, which ends with the block. Raises ServerError."""
    server = RedisServer(core)
    try:
        server.start()
        yield server
    finally:
        server.stop()
