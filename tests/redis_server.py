"""A real redis-server for tests, on a free port. It keeps nothing and ends with the test."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as CannotConnect
from redis.retry import Retry

from loadtest.processes.ports import free_port

SECONDS_TO_START = 20.0


class RedisServer:
    """A server that can be stopped and started again on its port."""

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        self.port = free_port()
        self.password = password
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
            except CannotConnect:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it answer nothing until `resume`; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def call(self, *command: bytes | str) -> Any:
        """The reply to a command, over a connection of its own."""
        once = Retry(NoBackoff(), 0)
        limit = SECONDS_TO_START
        with Redis(
            port=self.port, password=self.password, protocol=2, socket_timeout=limit, retry=once
        ) as client:
            return client.execute_command(*command)


@contextmanager
def running_redis(folder: Path, *options: str, password: str | None = None) -> Iterator[RedisServer]:
    """A running server, with a password if `options` set it; skips the test where none is installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, *options, password=password)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def running_cluster(folder: Path, replicas: int = 0) -> Iterator[list[RedisServer]]:
    """Two nodes with half of the slots each, then replicas of the first."""
    with ExitStack() as stack:
        nodes, buses = [], list[str]()
        for number in range(2 + replicas):
            home = folder / str(number)
            home.mkdir()
            buses.append(str(free_port()))
            options = ["--cluster-enabled", "yes", "--cluster-port", buses[-1]]
            options += ["--repl-diskless-sync-delay", "0"]
            nodes.append(stack.enter_context(running_redis(home, *options)))
        one, two, *others = nodes
        one.call("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        two.call("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        for epoch, node in enumerate(nodes[1:], start=2):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
            one.call("CLUSTER", "MEET", "127.0.0.1", str(node.port), buses[epoch - 1])
        wait_until(lambda: all(_knows(node, len(nodes)) for node in nodes))
        for node in others:
            node.call("CLUSTER", "REPLICATE", one.call("CLUSTER", "MYID"))
            wait_until(lambda node=node: node.call("INFO", "replication")["master_link_status"] == "up")  # type: ignore[misc]
        yield nodes


def _knows(node: RedisServer, nodes: int) -> bool:
    found: bytes = node.call("CLUSTER", "INFO")
    return b"cluster_state:ok" in found and b"cluster_known_nodes:%d" % nodes in found


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails if it does not become true."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
