"""A real redis-server for tests: on a free port, with nothing kept, gone afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.features.redis_address import RedisAddress
from service.features.redis_client import RedisClient
from service.features.store import StoreUnavailable

SECONDS_TO_START = 20.0


class RedisServer:
    """A server that can be stopped and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._options = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(folder), "--enable-debug-command", "yes", "--logfile", str(folder / "redis.log")),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `--feature-store`."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(["redis-server", *self._options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                self.call("PING")
                return
            except StoreUnavailable:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, *command: bytes | str) -> Any:
        """The reply to a command, over a connection of its own."""
        with RedisClient(RedisAddress(nodes=(("127.0.0.1", self.port),))) as client:
            return client.call(*command)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running server; skips the test where none is installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
