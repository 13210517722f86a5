"""A peer that speaks no proper RESP costs its own connection and the features of a read, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import uvloop

from service.features import redis_pipeline
from service.features.redis import RedisAddress, RedisStore
from service.features.redis_cluster import MAX_NODES, ClusterReader
from service.features.redis_pipeline import ConnectionOptions
from service.features.store import UNAVAILABLE, pack
from service.features.users import UserFeatures

# Takes the words of a command and returns the bytes of the reply; None: nothing.
Answer = Callable[[list[bytes]], bytes | None]
Found = tuple[dict[str, Any], str | None]

VALUE = pack({"site": "s1"})
GOOD = b"$%d\r\n%b\r\n" % (len(VALUE), VALUE)


class Peer:
    """A server whose replies are given by `answer`; it counts connections."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every command of a connection."""
        self.connections += 1
        commands = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    reply = b"+PONG\r\n" if command == [b"PING"] else self.answer(command)
                    writer.write(reply or b"")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def find_users(
    scheme: str, answer: Callable[[Peer], Answer], rounds: int, users: int = 2
) -> list[list[Found]]:
    """What `rounds` reads of `users` users are told; nothing may be raised into the event loop."""

    async def run() -> list[list[Found]]:
        loop, raised = asyncio.get_running_loop(), list[dict[str, Any]]()
        loop.set_exception_handler(lambda _, context: raised.append(context))
        peer = Peer(lambda _: None)
        peer.answer = answer(peer)
        async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
            peer.port = server.sockets[0].getsockname()[1]
            store = RedisStore(RedisAddress.parse(f"{scheme}://127.0.0.1:{peer.port}"))
            found = []
            await store.open()
            features = UserFeatures(store, 5.0)
            for number in range(rounds):
                while peer.connections < number + 1 or not store._reader.is_open:
                    await asyncio.sleep(0.002)
                found.append(await asyncio.gather(*(find(features, f"u{n}") for n in range(users))))
            await store.close()
        assert not raised
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(run(), 10.0))


async def find(features: UserFeatures, user_id: str) -> Found:
    future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
    features.find(user_id, lambda values, reason: future.set_result((values, reason)))
    return await future


LOST: Found = ({}, UNAVAILABLE)
READ: Found = ({"site": "s1"}, None)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$-2\r\n",
        b"$999999999999999999999\r\n",
        b"$9223372036854775807\r\n",
        b"$600000000\r\n",
        b"*-2\r\n",
        b"*1000000000\r\n",
        b"*2\r\n*1000000000\r\n",
        b"*4294967295\r\n",
        b"*1\r\n" * 50_000 + b":1\r\n",
        b"*2\r\n*1\r\n+a\r\n*0\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*2\r\n-ERR one\r\n-ERR two\r\n",
        b"*1\r\n" + GOOD,
        b"*3\r\n" + 3 * GOOD,
        b"*2\r\n" + 2 * GOOD + b"+more\r\n",
        b">2\r\n" + 2 * GOOD,
        b">2\r\n+invalidate\r\n*1\r\n+x\r\n*2\r\n" + 2 * GOOD,
        b"%1\r\n+a\r\n:1\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"#t\r\n",
        b",nan\r\n",
        b":1\r\n",
        b"+OK\r\n",
        b":99999999999999999999999\r\n",
    ],
)
def test_a_malformed_reply_closes_the_connection_and_the_next_one_is_used(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    answers = iter([reply, b"*2\r\n" + 2 * GOOD])
    first, second = find_users("redis", lambda _: lambda _: next(answers), rounds=2)
    assert first == ([READ, READ] if reply.endswith(b"+more\r\n") else [LOST, LOST])
    assert second == [READ, READ]
    assert "a Redis sent an unexpected reply, its connection is closed" in caplog.text
    assert time.monotonic() - began < 2.0


def test_an_error_is_a_reply_like_any_other() -> None:
    answers = iter([b"-LOADING \xff\xfe\r\n", b"*2\r\n$-1\r\n" + GOOD])

    found = find_users("redis", lambda _: lambda _: next(answers), rounds=1)
    assert found == [[LOST, LOST]]


def test_a_reply_without_end_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pipeline, "MAX_REPLY_BYTES", 1 << 16)
    answers = iter([b"$60000\r\n" + bytes(60_000) + b"\r\n", b"*9999999\r\n" + GOOD * 10_000])
    # The first is whole, but no list; the second would go on for longer than a reply may.
    first, second = find_users("redis", lambda _: lambda _: next(answers), rounds=2)
    assert first == second == [LOST, LOST]
    assert "MGET must have 2 values (got a value of type bytes)" in caplog.text
    assert "a reply must have at most 65,536 bytes" in caplog.text


@pytest.mark.parametrize("code", [b"", b"PANG", b"OK"])
def test_a_handshake_without_pong_is_refused(code: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"$%d\r\n%b\r\n" % (len(code), code))
        await reader.read()
        writer.close()

    async def run() -> bool:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            store = RedisStore(
                RedisAddress.parse(f"redis://127.0.0.1:{port}"), ConnectionOptions(connect_seconds=0.2)
            )
            await store.open()
            is_open = store._reader.is_open
            await store.close()
            return is_open

    assert not asyncio.run(asyncio.wait_for(run(), 10.0))
    assert "it must answer PONG" in caplog.text


def slots(port: int) -> bytes:
    """The reply of a node to CLUSTER SLOTS, which has all slots."""
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port


@pytest.mark.parametrize(
    "reply",
    [
        b"-MOVED\r\n",
        b"-MOVED \r\n",
        b"-MOVED 3999\r\n",
        b"-MOVED 127.0.0.1:6379\r\n",
        b"-MOVED 3999 127.0.0.1\r\n",
        b"-MOVED 3999 127.0.0.1:\r\n",
        b"-MOVED 3999 127.0.0.1:port\r\n",
        b"-MOVED 3999 127.0.0.1:0\r\n",
        b"-MOVED 3999 127.0.0.1:70000\r\n",
        b"-MOVED 3999 127.0.0.1:-1\r\n",
        b"-MOVED 3999 127.0.0.1:99999999999999999999999999\r\n",
        b"-MOVED 16384 127.0.0.1:6379\r\n",
        b"-MOVED slot 127.0.0.1:6379\r\n",
        b"-MOVED 3999 \xff\xfe:6379\r\n",
        b"-MOVED 3999 " + b"h" * 5000 + b":6379\r\n",
        b"-MOVED 3999 a b:6379\r\n",
        b"-ASK\r\n",
        b"-ASK 3999\r\n",
        b"-ASK 3999 127.0.0.1:70000\r\n",
        b":1\r\n",
        b"*1\r\n" + GOOD,
        b"%1\r\n+a\r\n:1\r\n",
        b">1\r\n+a\r\n",
    ],
)
def test_a_malformed_redirection_costs_its_own_key(reply: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([reply, GOOD, GOOD, GOOD])

    def answer(peer: Peer) -> Answer:
        return lambda command: slots(peer.port) if command[0] == b"CLUSTER" else next(answers)

    first, second = find_users("redis+cluster", answer, rounds=2)
    # A push belongs to no command, so no reply after it counts.
    assert first == ([LOST, LOST] if reply[:1] == b">" else [LOST, READ])
    assert second == [READ, READ]
    assert "a Redis sent an unexpected reply, its connection is closed" in caplog.text


@pytest.mark.parametrize("host", [b"127.0.0.1", b"..", b"a" * 100])
def test_a_redirection_to_where_nothing_is_costs_its_own_key(host: bytes) -> None:
    answers = iter([b"-MOVED 3999 %b:1\r\n" % host, GOOD])

    def answer(peer: Peer) -> Answer:
        return lambda command: slots(peer.port) if command[0] == b"CLUSTER" else next(answers)

    assert find_users("redis+cluster", answer, rounds=1) == [[LOST, READ]]


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"*1\r\n+OK\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$4\r\nhost\r\n:70000\r\n",
        b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$4\r\nhost\r\n:1\r\n",
        b"*1\r\n*3\r\n:-5\r\n:3\r\n*2\r\n$4\r\nhost\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:1000000000000000000\r\n*2\r\n$4\r\nhost\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$4\r\nhost\r\n,inf\r\n",
        b"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$4\r\nho\0t\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:1\r\n*0\r\n",
        b"*2\r\n" + 2 * b"*3\r\n:0\r\n:16383\r\n*2\r\n$4\r\nhost\r\n:1\r\n",
        b"*1100\r\n"
        + b"".join(b"*3\r\n:%d\r\n:%d\r\n*2\r\n$1\r\nh\r\n:%d\r\n" % (n, n, n + 1) for n in range(1100)),
        b"%1\r\n+a\r\n:1\r\n",
    ],
)
def test_slots_that_are_none_close_the_connection(reply: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([reply])

    def answer(peer: Peer) -> Answer:
        return lambda command: next(answers, slots(peer.port)) if command[0] == b"CLUSTER" else GOOD

    # The first connection ends before any read.
    assert find_users("redis+cluster", answer, rounds=1) == [[READ, READ]]
    assert "CLUSTER SLOTS must list" in caplog.text


def test_redirections_make_no_end_of_connections() -> None:
    """Nodes that cannot be reached are forgotten when the slots are read; there are never more than some."""

    async def run() -> tuple[int, int]:
        ports = iter(range(1, 1 << 16))

        def answer(command: list[bytes]) -> bytes:
            return (
                slots(peer.port) if command[0] == b"CLUSTER" else b"-MOVED 0 127.0.0.1:%d\r\n" % next(ports)
            )

        peer = Peer(answer)
        async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
            peer.port = server.sockets[0].getsockname()[1]
            cluster = ClusterReader([("127.0.0.1", peer.port)], ConnectionOptions())
            cluster.start()
            while not cluster.is_open:
                await asyncio.sleep(0.002)
            told = asyncio.Event()
            cluster.read([b"u"] * (MAX_NODES + 50), lambda _: told.set())
            await told.wait()
            most = len(cluster._clients)
            async with asyncio.timeout(5.0):
                while len(cluster._clients) > 1:
                    cluster.refresh()
                    await asyncio.sleep(0.1)
            fewest = len(cluster._clients)
            await cluster.close()
        return most, fewest

    assert asyncio.run(asyncio.wait_for(run(), 20.0)) == (MAX_NODES, 1)
