"""Replies never cross: not when readers give up, when the server stalls, or when it goes and comes back."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from service.features.redis import RedisAddress, RedisStore, RedisUsersWriter
from service.features.redis_pipeline import MAX_READS, Command, ConnectionOptions, NodeClient
from service.features.store import LATE, UNAVAILABLE, pack
from service.features.users import UserFeatures
from tests.redis_server import RedisServer

T = TypeVar("T")
USERS = 40
Found = tuple[dict[str, Any], str | None]


@pytest.fixture(autouse=True)
def users(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    fill(redis)


def fill(redis: RedisServer) -> None:
    with RedisUsersWriter(RedisAddress.parse(redis.url)) as writer:
        writer.write([(f"u{n}", pack({"me": f"u{n}"})) for n in range(USERS)])


def run_with(
    url: str, use: Callable[[UserFeatures], Awaitable[None]], options: ConnectionOptions | None = None
) -> None:
    """Run `use` with a deadline of 2 milliseconds."""

    async def run() -> None:
        store = RedisStore(RedisAddress.parse(url), options)
        await store.open()
        users = UserFeatures(store, 0.002)
        try:
            await use(users)
            await users.drain()
        finally:
            await store.close()

    run_in_loop(run())


def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run it in the service's own kind of loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def find(users: UserFeatures, *user_ids: str) -> list[Found]:
    """What several requests of one event-loop iteration are told."""
    futures: list[asyncio.Future[Found]] = []
    for user_id in user_ids:
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        users.find(user_id, lambda features, reason, future=future: future.set_result((features, reason)))  # type: ignore[misc]
        futures.append(future)
    return await asyncio.wait_for(asyncio.gather(*futures), 5.0)


async def find_until(users: UserFeatures, user_id: str, is_it: Callable[[Found], bool]) -> Found:
    async with asyncio.timeout(20.0):
        while not is_it(found := (await find(users, user_id))[0]):
            await asyncio.sleep(0.02)
        return found


def stop_for(redis: RedisServer, seconds: float) -> None:
    """Keep the process from running, with its connections open."""
    redis.pause()
    time.sleep(seconds)
    redis.resume()


def restart(redis: RedisServer) -> None:
    redis.stop()
    redis.start()
    fill(redis)


STALLS: dict[str, Callable[[RedisServer], object]] = {
    "DEBUG SLEEP": lambda redis: redis.call("DEBUG", "SLEEP", "0.2"),
    "CLIENT PAUSE": lambda redis: redis.call("CLIENT", "PAUSE", "200", "ALL"),
    "SIGSTOP": lambda redis: stop_for(redis, 0.2),
    "restart": restart,
}


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("read_seconds", [1.0, 0.05])
def test_readers_that_gave_up_leave_no_answer_to_others(
    redis: RedisServer, stall: str, read_seconds: float
) -> None:
    told: list[tuple[str, Found]] = []

    async def use(users: UserFeatures) -> None:
        draw = random.Random(0)
        stalled = threading.Thread(target=STALLS[stall], args=(redis,))
        reads = 0
        while reads < 120 or stalled.is_alive():
            reads += 1
            if reads == 20:
                stalled.start()
            names = [f"u{draw.randrange(USERS)}" for _ in range(draw.randrange(1, 5))]
            told.extend(zip(names, await find(users, *names), strict=True))
            await asyncio.sleep(0.001)
        await asyncio.to_thread(stalled.join)
        # What came late has been read away by now, and the connection is as good as ever.
        for n in range(USERS):
            async with asyncio.timeout(5.0):
                while (await find(users, f"u{n}"))[0] != ({"me": f"u{n}"}, None):
                    pass

    # With 0.05 the connection is closed while late replies are on their way; with 1.0 it is not.
    run_with(redis.url, use, ConnectionOptions(read_seconds=read_seconds))
    found = {reason for _, (_, reason) in told}
    assert found & {LATE, UNAVAILABLE}
    assert None in found
    for name, (features, reason) in told:
        assert features == ({} if reason else {"me": name})


def test_replies_go_to_those_who_asked_in_any_mixture(redis: RedisServer) -> None:
    async def run() -> list[tuple[int, list[Any] | None]]:
        client = NodeClient(("127.0.0.1", redis.port), ConnectionOptions())
        client.start()
        while not client.is_open:
            await asyncio.sleep(0.001)
        got: list[tuple[int, list[Any] | None]] = []
        draw = random.Random(1)
        for n in range(2000):
            commands: list[Command] = [
                ("ECHO", f"{n}.{part}" * draw.choice([1, 500])) for part in range(draw.randrange(1, 4))
            ]
            if n % 7 == 0:
                commands[0] = ("NOCOMMAND", str(n))
            client.send(commands, lambda replies, n=n: got.append((n, replies)))  # type: ignore[misc]
            if n % 40 == 39:
                await asyncio.sleep(0.001)
        while len(got) < 2000:
            await asyncio.sleep(0.001)
        await client.close()
        return got

    got = run_in_loop(run())
    answered = [(n, replies) for n, replies in got if replies is not None]
    assert len(answered) > 1000
    for n, replies in answered:
        for part, reply in enumerate(replies):
            if n % 7 == 0 and part == 0:
                assert f"'{n}'" in str(reply)
            else:
                assert reply.startswith(f"{n}.{part}".encode())


def test_a_server_that_goes_and_comes_back(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def use(users: UserFeatures) -> None:
        assert await find(users, "u1") == [({"me": "u1"}, None)]
        redis.stop()
        assert (await find_until(users, "u1", lambda found: found[1] == UNAVAILABLE))[0] == {}
        assert await find(users, "u1", "u2") == [({}, UNAVAILABLE)] * 2
        await asyncio.to_thread(redis.start)
        redis.call("SET", "bidlight:user:u1", pack({"me": "again"}))
        assert (await find_until(users, "u1", lambda found: found[1] is None))[0] == {"me": "again"}

    run_with(redis.url, use)
    assert "is lost" in caplog.text


def test_a_store_that_is_down_at_the_start_is_no_reason_not_to(redis: RedisServer) -> None:
    redis.stop()

    async def use(users: UserFeatures) -> None:
        assert await find(users, "u1") == [({}, UNAVAILABLE)]
        await asyncio.to_thread(redis.start)
        await find_until(users, "u1", lambda found: found[1] != UNAVAILABLE)

    run_with(redis.url, use, ConnectionOptions(connect_seconds=0.1))


def test_a_server_that_stays_silent_is_left(redis: RedisServer) -> None:
    async def use(users: UserFeatures) -> None:
        stalled = threading.Thread(target=redis.call, args=("CLIENT", "PAUSE", "1000", "ALL"))
        stalled.start()
        await find_until(users, "u1", lambda found: found[1] == LATE)
        await find_until(users, "u1", lambda found: found[1] == UNAVAILABLE)
        assert (await find_until(users, "u3", lambda found: found[1] is None))[0] == {"me": "u3"}
        await asyncio.to_thread(stalled.join)

    run_with(redis.url, use, ConnectionOptions(read_seconds=0.1))


def test_reads_in_flight_are_bounded_and_all_are_told(redis: RedisServer) -> None:
    async def run() -> tuple[list[Any], list[Any]]:
        client = NodeClient(("127.0.0.1", redis.port), ConnectionOptions(read_seconds=0.2))
        client.start()
        while not client.is_open:
            await asyncio.sleep(0.001)
        got: list[Any] = []
        redis.pause()
        for _ in range(MAX_READS + 10):
            client.read([b"bidlight:user:u1"], got.append)
        refused = list(got)
        while len(got) < MAX_READS + 10:
            await asyncio.sleep(0.01)
        redis.resume()
        await client.close()
        return refused, got

    refused, got = run_in_loop(asyncio.wait_for(run(), 10.0))
    assert refused == [None] * 10
    # Nobody asked again, and still the connection was closed, and everybody told.
    assert got == [None] * (MAX_READS + 10)


def test_what_is_no_redis_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async def run() -> bool:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = NodeClient(("127.0.0.1", port), ConnectionOptions())
            client.start()
            while "unexpected reply" not in caplog.text:
                await asyncio.sleep(0.005)
            was_open = client.is_open
            await client.close()
            return was_open

    assert not run_in_loop(asyncio.wait_for(run(), 10.0))


def test_a_lost_connection_is_not_open_when_its_readers_are_told(redis: RedisServer) -> None:
    """A reader that is told asks another node for the slots of a cluster, and must not ask the lost one."""

    async def run() -> list[tuple[Any, bool]]:
        client = NodeClient(("127.0.0.1", redis.port), ConnectionOptions())
        client.start()
        while not client.is_open:
            await asyncio.sleep(0.001)
        told: list[tuple[Any, bool]] = []
        redis.pause()
        client.read([b"bidlight:user:u1"], lambda values: told.append((values, client.is_open)))
        await asyncio.to_thread(redis.stop)
        while not told:
            await asyncio.sleep(0.001)
        await client.close()
        redis.start()
        return told

    assert run_in_loop(asyncio.wait_for(run(), 10.0)) == [(None, False)]


def test_a_reader_that_fails_leaves_no_other_waiting(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError

    async def run() -> list[Any]:
        client = NodeClient(("127.0.0.1", redis.port), ConnectionOptions())
        client.start()
        while not client.is_open:
            await asyncio.sleep(0.001)
        told: list[Any] = []
        redis.pause()
        for then in (told.append, fail, told.append):
            client.send([("PING",)], then)
        await asyncio.to_thread(redis.stop)
        while len(told) < 2:
            await asyncio.sleep(0.001)
        await client.close()
        redis.start()
        return told

    assert run_in_loop(asyncio.wait_for(run(), 10.0)) == [None, None]
    assert "a caller could not be told" in caplog.text
