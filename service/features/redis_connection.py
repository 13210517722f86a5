"""One connection to a Redis that answers never cross on, and a link that makes it anew when it is lost.

It knows commands as bytes and replies as what hiredis makes of them, and nothing of features.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from service.features.redis_address import Node, RedisAddress
from service.features.redis_wire import ProtocolError, Reader, is_error, packed

logger = logging.getLogger("bidlight")

# What is asked of a connection: its replies, or None if they will not come.
Then = Callable[[list[Any] | None], None]

CONNECT_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
# Replies that are owed: what is more is not asked, and an older one than this means that nobody is there.
MAX_OWED = 64
STUCK_SECONDS = 1.0


class Connection(asyncio.Protocol):
    """Commands out, replies in, first asked first answered: the n-th reply belongs to the n-th command.

    So nothing is ever taken back. Who does not wait any more stays in the line, and the reply that comes is
    handed to them and to nobody else; a connection of which that cannot be said is dropped.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._owed: deque[tuple[int, Then, float]] = deque()  # replies, to whom, asked at
        self._replies: list[Any] = []  # those of the first in the line, as far as they have come
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def owed(self) -> int:
        """How many calls of `ask` have no answer yet."""
        return len(self._owed)

    @property
    def is_stuck(self) -> bool:
        """Whether the oldest of them has waited so long that the other side must be gone."""
        return bool(self._owed) and self._loop.time() - self._owed[0][2] > STUCK_SECONDS

    def ask(self, commands: bytes, replies: int, then: Then) -> None:
        """Send `commands`, which get so many replies; `then` is called later, once."""
        if self._transport is None or self._transport.is_closing():
            then(None)
            return
        self._owed.append((replies, then, self._loop.time()))
        self._transport.write(commands)

    def drop(self) -> None:
        """Close at once; whoever waits is told that no reply will come."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The other side has accepted."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Replies have come, whole or in part."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except (ProtocolError, IndexError) as error:
            logger.error("a Redis sent what nobody asked for, and the connection is dropped: %r", error)
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing will come any more."""
        self._transport = None
        owed, self._owed = self._owed, deque()
        for _, then, _ in owed:
            then(None)
        if not self.lost.done():
            self.lost.set_result(None)

    def _take(self, reply: Any) -> None:
        """One reply, for the first in the line. Raises IndexError where there is no line."""
        replies, then, _ = self._owed[0]
        self._replies.append(reply)
        if len(self._replies) == replies:
            self._owed.popleft()
            whole, self._replies = self._replies, []
            then(whole)


class RedisLink:
    """A connection to one node, made anew when it is lost: after a pause that doubles while that fails.

    `on_open` is called whenever a connection is ready.
    """

    def __init__(self, address: RedisAddress, node: Node, on_open: Callable[[], None] | None = None) -> None:
        self._address = address
        self.node = node
        self._on_open = on_open
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_down = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def start(self) -> None:
        """Connect in the background, for good."""
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Drop the connection, and make no other."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def ask(self, commands: bytes, replies: int, then: Then) -> None:
        """Send `commands`, which get so many replies; `then` is called once: now, with None, or later."""
        connection = self._connection
        if connection is not None and connection.is_stuck:
            logger.error("the Redis at %s:%d does not answer; connecting anew", *self.node)
            connection.drop()
            connection = self._connection = None
        if connection is None or connection.owed >= MAX_OWED:
            then(None)
            return
        connection.ask(commands, replies, then)

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = await asyncio.wait_for(self._connect(), CONNECT_SECONDS)
            except (OSError, TimeoutError, _Refused) as error:
                if not self._is_down:
                    logger.error("the Redis at %s:%d cannot be reached: %s", *self.node, error or "too slow")
                self._is_down = True
            else:
                logger.log(
                    logging.WARNING if self._is_down else logging.DEBUG, "connected to %s:%d", *self.node
                )
                self._is_down = False
                pause = FIRST_PAUSE_SECONDS
                await self._serve(connection)
                logger.error("the connection to the Redis at %s:%d is lost", *self.node)
                self._is_down = True
            # Not all workers at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, LONGEST_PAUSE_SECONDS)

    async def _serve(self, connection: Connection) -> None:
        """Use the connection until it is lost."""
        self._connection = connection
        try:
            if self._on_open is not None:
                self._on_open()
            await connection.lost
        finally:
            self._connection = None
            connection.drop()

    async def _connect(self) -> Connection:
        """A connection that has introduced itself; raises OSError, _Refused."""
        host, port = self.node
        tls = self._address.ssl_context()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, host, port, ssl=tls)
        try:
            commands = [*self._address.greeting(), ("PING",)]
            said: asyncio.Future[list[Any] | None] = loop.create_future()
            connection.ask(packed(commands), len(commands), lambda replies: _set(said, replies))
            replies = await said
            if replies is None:
                raise _Refused("it closed the connection")
            for reply in replies:
                if is_error(reply):
                    raise _Refused(str(reply))
        except BaseException:
            connection.drop()
            raise
        return connection


def _set(future: asyncio.Future[list[Any] | None], replies: list[Any] | None) -> None:
    if not future.done():
        future.set_result(replies)


class _Refused(Exception):
    """The other side is a Redis, or not, that does not want this connection."""
