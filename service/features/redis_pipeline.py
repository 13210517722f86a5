"""Reads of one Redis node: many commands in flight on one connection, which is reopened when it is lost.

It knows commands and replies, but not what values hold. redis-py has one command in flight on a connection,
which makes the reads of requests too expensive: docs/decisions/redis.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from service.bundle.errors import show
from service.features.store import UNREAD, Values, missing_library

try:
    import hiredis
except ModuleNotFoundError:
    raise missing_library("redis[hiredis]") from None

logger = logging.getLogger("bidlight")

Node = tuple[str, int]
Command = tuple[bytes | str, ...]
# Takes the replies to the commands of one read, in order, or None where they will not come. May raise
# UnexpectedReply, which closes the connection.
Then = Callable[[list[Any] | None], None]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
# More reads in flight than this are refused.
MAX_READS = 64
# A reply that is longer is not waited for.
MAX_REPLY_BYTES = 1 << 26
# A reply that begins by announcing so many elements or bytes, which hiredis makes room for at once.
_TOO_LONG = re.compile(rb"(?:[*~>%|]\d+\r\n)*[*~>%|$=!]\d{8}")

# The library's own annotation has a command of one word.
_pack: Callable[[Command], bytes] = cast(Any, hiredis.pack_command)


@dataclass(frozen=True)
class ConnectionOptions:
    """The first commands on a connection, whether it is encrypted, and its time limits.

    A connection is closed when its oldest read has been in flight for `read_seconds`.
    """

    handshake: tuple[Command, ...] = field(default=(), repr=False)
    tls: bool = False
    connect_seconds: float = 2.0
    read_seconds: float = 1.0


class UnexpectedReply(Exception):
    """A reply that the command cannot have: the other side is no Redis, or replies are mixed up."""


def is_value(reply: object) -> bool:
    """Whether a reply is the value of a key, or says that there is none."""
    return reply is None or isinstance(reply, bytes)


def is_error(reply: object) -> bool:
    """Whether a reply says that its command failed."""
    return isinstance(reply, hiredis.HiredisError)


class Pipeline(asyncio.Protocol):
    """Commands out, replies in: the n-th reply belongs to the n-th command.

    No read is ever cancelled. The reply to a caller who has stopped waiting still goes to that caller and to
    no other; a connection whose replies do not match its commands is closed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._reads: deque[tuple[int, Then, float]] = deque()  # number of replies, caller, time of sending
        self._replies: list[Any] = []  # to the first of the reads, so far
        self._unfinished = 0  # bytes since the last reply
        self._was_idle = True  # after the last bytes, so that the next ones begin a reply
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def in_flight(self) -> int:
        """The number of reads without a reply."""
        return len(self._reads)

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest read has been in flight."""
        return self._loop.time() - self._reads[0][2] if self._reads else 0.0

    def send(self, commands: Sequence[Command], then: Then) -> None:
        """Send `commands`; `then` is called once, from within this call or later."""
        if self._transport is None or self._transport.is_closing():
            then(None)
            return
        self._reads.append((len(commands), then, self._loop.time()))
        self._transport.write(b"".join([_pack(command) for command in commands]))

    def close(self) -> None:
        """Close at once; the callers of all reads in flight are told None."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        try:
            self._feed(data)
            while (reply := self._reader.gets()) is not False:
                self._unfinished = 0
                self._take(reply)
            self._was_idle = not self._reads
        except Exception as error:
            # Whatever bytes come, hiredis' TypeError and MemoryError among it, this connection alone pays.
            logger.error(
                "a Redis sent an unexpected reply, its connection is closed: %s",
                error if isinstance(error, UnexpectedReply) else repr(error),
                exc_info=not isinstance(error, UnexpectedReply | hiredis.HiredisError),
            )
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """No reply will come any more."""
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        reads, self._reads = self._reads, deque()
        for _, then, _ in reads:
            try:
                then(None)
            except Exception:  # the others still wait
                logger.exception("a caller could not be told that a read is lost")

    def _feed(self, data: bytes) -> None:
        """More bytes of replies. Raises UnexpectedReply for a reply that would be too long."""
        self._unfinished += len(data)
        if self._unfinished > MAX_REPLY_BYTES or (self._was_idle and _TOO_LONG.match(data)):
            raise UnexpectedReply(
                f"a reply must have at most {MAX_REPLY_BYTES:,} bytes (got {data[:20]!r}...)"
            )
        self._reader.feed(data)

    def _take(self, reply: Any) -> None:
        """One reply, to a command of the oldest read. Raises UnexpectedReply where there is none."""
        if not self._reads or isinstance(reply, hiredis.PushNotification):
            raise UnexpectedReply(f"replies must follow commands (got {show(reply)} besides)")
        count, then, _ = self._reads[0]
        self._replies.append(reply)
        if len(self._replies) == count:
            self._reads.popleft()
            replies, self._replies = self._replies, []
            then(replies)


class NodeClient:
    """A pipeline to one node. A lost one is replaced after a pause, which doubles with every failure.

    A connection that soon is lost is a failure too.

    `on_open` is called whenever a pipeline is ready.
    """

    def __init__(
        self, node: Node, options: ConnectionOptions, on_open: Callable[[], None] | None = None
    ) -> None:
        self.node = node
        self._options = options
        self._on_open = on_open
        self._pipeline: Pipeline | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_down = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._pipeline is not None and self._pipeline.is_open

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        self._task = asyncio.create_task(self._stay_connected())

    def stop(self) -> None:
        """Close the connection soon, and open no other."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Close the connection, and open no other."""
        self.stop()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def send(self, commands: Sequence[Command], then: Then) -> None:
        """Send `commands`; `then` is called once, from within this call or later."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.in_flight >= MAX_READS:
            then(None)
        else:
            pipeline.send(commands, then)

    def read(self, keys: Sequence[bytes], then: Callable[[Values], None]) -> None:
        """The value of every key by one MGET, None where it has none; None for all if there is no reply."""

        def take(replies: list[Any] | None) -> None:
            try:
                values = None if replies is None else _values_of(replies[0], len(keys))
            except UnexpectedReply:
                then(None)
                raise
            then(values)

        self.send([("MGET", *keys)], take)

    def ask(self, keys: Sequence[bytes], commands: Sequence[Command], then: Callable[[Values], None]) -> None:
        """What a command for each key returns, a value or None; UNREAD for an error, None for no reply."""

        def take(replies: list[Any] | None) -> None:
            values = None if replies is None else [UNREAD if is_error(each) else each for each in replies]
            if values is not None and UNREAD in values:
                error = next(filter(is_error, replies or ()), "an empty value")
                logger.error("the Redis at %s:%d refuses %s: %s", *self.node, commands[0][0], error)
            if values is None or all(map(is_value, values)):
                then(values)
                return
            then(None)
            raise UnexpectedReply(f"{show(commands[0][0])} must have a value (got {show(replies)})")

        self.send(commands, take)

    async def _stay_connected(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                # Not wait_for, which loses a cancellation when the connection fails at the same moment.
                async with asyncio.timeout(self._options.connect_seconds):
                    pipeline = await self._connect()
            except (OSError, TimeoutError, ValueError, OverflowError, _Refused) as error:
                if not self._is_down:
                    logger.error("the Redis at %s:%d cannot be reached: %s", *self.node, error or "too slow")
            else:
                level = logging.WARNING if self._is_down else logging.DEBUG
                logger.log(level, "connected to the Redis at %s:%d", *self.node)
                connected = asyncio.get_running_loop().time()
                reason = await self._serve(pipeline)
                if asyncio.get_running_loop().time() - connected > LONGEST_PAUSE_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                logger.error("the connection to the Redis at %s:%d %s", *self.node, reason)
            self._is_down = True
            # The workers do not all reconnect at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, LONGEST_PAUSE_SECONDS)

    async def _serve(self, pipeline: Pipeline) -> str:
        """Use the pipeline until it is lost or does not answer; returns which, for the log."""
        self._pipeline = pipeline
        try:
            if self._on_open is not None:
                self._on_open()
            while pipeline.waiting_seconds <= self._options.read_seconds:
                await asyncio.wait((pipeline.lost,), timeout=0.25 * self._options.read_seconds)
                if pipeline.lost.done():
                    return "is lost"
                # A busy loop runs due timers before it reads the replies that sockets hold.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            return "is closed: it does not answer"
        finally:
            self._pipeline = None
            pipeline.close()

    async def _connect(self) -> Pipeline:
        """A pipeline after its handshake; raises OSError, _Refused."""
        host, port = self.node
        tls = ssl.create_default_context() if self._options.tls else None
        loop = asyncio.get_running_loop()
        _, pipeline = await loop.create_connection(Pipeline, host, port, ssl=tls)
        try:
            answered: asyncio.Future[list[Any] | None] = loop.create_future()
            pipeline.send(
                [*self._options.handshake, ("PING",)],
                lambda replies: None if answered.done() else answered.set_result(replies),
            )
            replies = await answered
            if replies is None:
                raise _Refused("it closed the connection")
            for reply in replies:
                if is_error(reply):
                    raise _Refused(str(reply))
            if replies[-1] != b"PONG":
                raise _Refused(f"it must answer PONG (got {show(replies[-1])})")
        except BaseException:
            pipeline.close()
            raise
        return pipeline


def _values_of(reply: Any, count: int) -> Values:
    """The values of an MGET; None for an error, as while Redis loads its data. Raises UnexpectedReply."""
    if is_error(reply):
        return None
    if not isinstance(reply, list) or len(reply) != count or not all(map(is_value, reply)):
        raise UnexpectedReply(f"MGET must have {count} values (got {show(reply)})")
    return reply


class _Refused(Exception):
    """The other side does not want this connection, or is no Redis."""
