"""Microseconds of processor time that a read of users from Redis costs, by the client that reads.

`python -m benchmarks.redis_reads` starts a redis-server and prints a line for each client: the service's own
pipeline, redis-py's connections, and redis-py's client. A figure is this process' time, the best of some
timings; the server's is not in it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import uvloop
from redis.asyncio import Connection, Redis

from benchmarks.command import Command, ended, print_table
from benchmarks.users_in_redis import fill
from loadtest.arguments import failed
from loadtest.processes.redis_server import missing_redis, running_redis
from service.features.redis_pipeline import ConnectionOptions, NodeClient

READS_A_TIMING, TIMINGS = 400, 30


class Pipelined:
    """The service's own: many reads in flight on one connection."""

    def __init__(self, host: str, port: int) -> None:
        self._client = NodeClient((host, port), ConnectionOptions())

    async def open(self) -> None:
        """Connect."""
        self._client.start()
        while not self._client.is_open:
            await asyncio.sleep(0.001)

    def read(self, keys: Sequence[bytes]) -> Awaitable[object]:
        """The values of the keys, by a callback."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._client.read(keys, future.set_result)
        return future

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


class Connections:
    """redis-py's connections, one for each read in flight, without its client and its pool."""

    def __init__(self, host: str, port: int) -> None:
        # The timeout of a read covers both directions.
        self._node: dict[str, Any] = {"host": host, "port": port, "protocol": 2, "socket_timeout": None}
        self._free: list[Connection] = []

    async def open(self) -> None:
        """Connections are opened as reads need them."""

    async def read(self, keys: Sequence[bytes]) -> object:
        """The values of the keys."""
        connection = self._free.pop() if self._free else Connection(**self._node)
        async with asyncio.timeout(1.0):
            await connection.send_command("MGET", *keys)
            values: object = await connection.read_response()
        self._free.append(connection)
        return values

    async def close(self) -> None:
        """Disconnect."""
        for connection in self._free:
            await connection.disconnect()


class Client:
    """redis-py's client with its pool."""

    def __init__(self, host: str, port: int) -> None:
        self._client = Redis(host=host, port=port, protocol=2)

    async def open(self) -> None:
        """Connections are opened as reads need them."""

    async def read(self, keys: Sequence[bytes]) -> object:
        """The values of the keys."""
        return await self._client.mget(keys)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()


CONTENDERS: dict[str, type[Pipelined | Connections | Client]] = {
    "pipeline": Pipelined,
    "redis.asyncio.Connection": Connections,
    "redis.asyncio.Redis": Client,
}


async def measure(contender: Pipelined | Connections | Client, users: int, at_once: int) -> float:
    """Microseconds a read of so many users, with so many reads in flight."""
    keys = [f"bidlight:user:u{user}".encode() for user in range(users)]
    await contender.open()
    best = float("inf")
    for _ in range(TIMINGS):
        started = time.process_time()
        for _ in range(READS_A_TIMING // at_once):
            # Each coroutine runs in a task, as a read of the service would.
            await asyncio.gather(*[contender.read(keys) for _ in range(at_once)])
        best = min(best, time.process_time() - started)
    await contender.close()
    return best / (READS_A_TIMING // at_once * at_once) * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("redis_reads", __doc__)
    command.number("--users", 4, "of a read")
    command.number("--at-once", 4, "reads in flight")
    options = command.parse_args(arguments)
    if lack := missing_redis():
        return failed(command.prog, lack)
    with running_redis() as store:
        fill(store.url, [{"context": {"site": "s1", "hour": 12}, "candidate": {}}])
        found = {}
        for name, contender in CONTENDERS.items():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                made = contender("127.0.0.1", store.port)
                found[name] = runner.run(measure(made, options.users, options.at_once))
    rows = [["client", "us a read", "x"]]
    rows += [[name, f"{us:.1f}", f"{us / found['pipeline']:.1f}"] for name, us in found.items()]
    print_table(rows)
    command.print_json(users=options.users, at_once=options.at_once, microseconds_a_read=found)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
