"""Whatever bytes come back, every read is answered, once, and nothing is raised into the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from service.features.redis import RedisAddress, RedisStore
from service.features.redis_pipeline import ConnectionOptions
from service.features.store import Values

USERS, READS = 3, 8
# A peer that stays silent is left after these; one that ends its connection must be noticed without them.
SILENT_SECONDS, NO_SECONDS = 0.3, 60.0
VALUE = b"$5\r\nvalue\r\n"

SCALARS = st.sampled_from(
    [
        *(VALUE, b"$-1\r\n", b"$0\r\n\r\n", b"+OK\r\n", b":1\r\n", b"#t\r\n", b"_\r\n", b",nan\r\n"),
        *(b"-ERR no\r\n", b"-MOVED 1 127.0.0.1:1\r\n", b"-MOVED\r\n", b"-MOVED 9 :\r\n", b"-ASK 1 a:b\r\n"),
        *(b"-ASK 5 127.0.0.1:1\r\n", b"-LOADING \xff\r\n", b"-CLUSTERDOWN x\r\n", b"=8\r\ntxt:more\r\n"),
    ]
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.tuples(st.sampled_from(b"*~>%|"), st.lists(inner, max_size=4)).map(
        lambda both: b"%c%d\r\n" % (both[0], len(both[1])) + b"".join(both[1])
    ),
    max_leaves=8,
)
LENGTHS = st.sampled_from(
    [b"$-2", b"$99999999999", b"$600000000", b"*-2", b"*1000000000", b"*4294967295", b"*7"]
)
REPLIES = st.one_of(
    SCALARS,
    NESTED,
    st.binary(max_size=40),
    LENGTHS.map(lambda length: length + b"\r\n"),
    st.just(b"*%d\r\n" % USERS + USERS * VALUE),
    st.tuples(NESTED, st.integers(0, 20)).map(lambda both: both[0][: both[1]]),
)
CHUNKS = st.lists(st.lists(REPLIES, max_size=4).map(b"".join), max_size=READS)


class Peer:
    """A server that answers the commands of reads by `chunks`, one each; then by nothing, or it `ends`."""

    def __init__(self, chunks: list[bytes], *, ends: bool) -> None:
        self._chunks = list(chunks)
        self._ends = ends
        self._was_read = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the commands of a connection."""
        commands = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    writer.write(self._reply(command))
                await writer.drain()
                if self._ends and self._was_read and not self._chunks:
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _reply(self, command: list[bytes]) -> bytes:
        if command == [b"PING"]:
            return b"+PONG\r\n"
        if command[0] == b"CLUSTER":
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.port
        self._was_read = True
        return self._chunks.pop(0) if self._chunks else b""


async def read_all(scheme: str, chunks: list[bytes], *, ends: bool) -> list[list[Values]]:
    """What each of several reads in flight is told; nothing may be raised into the event loop."""
    loop, raised = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: raised.append(context))
    peer = Peer(chunks, ends=ends)
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
        peer.port = server.sockets[0].getsockname()[1]
        options = ConnectionOptions(read_seconds=NO_SECONDS if ends else SILENT_SECONDS)
        store = RedisStore(RedisAddress.parse(f"{scheme}://127.0.0.1:{peer.port}"), options)
        await store.open()
        told: list[list[Values]] = [[] for _ in range(READS)]
        for number in range(READS):
            store.read_users([f"u{each}" for each in range(USERS)], told[number].append)
            if number % 3 == 2:
                await asyncio.sleep(0)
        async with asyncio.timeout(5.0):
            while not all(told):
                await asyncio.sleep(0.005)
        await store.close()
        await asyncio.sleep(0)
    assert not raised, raised
    return told


def check(scheme: str, chunks: list[bytes], ends: bool) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = runner.run(asyncio.wait_for(read_all(scheme, chunks, ends=ends), 20.0))
    for answers in told:
        (values,) = answers
        assert values is None or len(values) == USERS


@settings(max_examples=60, deadline=None)
@given(chunks=CHUNKS, ends=st.booleans())
def test_no_reader_of_one_server_is_left(chunks: list[bytes], ends: bool) -> None:
    check("redis", chunks, ends)


@settings(max_examples=60, deadline=None)
@given(chunks=CHUNKS, ends=st.booleans())
def test_no_reader_of_a_cluster_is_left(chunks: list[bytes], ends: bool) -> None:
    check("redis+cluster", chunks, ends)
