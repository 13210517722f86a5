"""Features in Redis: a string a user, `bidlight:user:ID`; one hash of all ads, `{bidlight:ads}`.

A program that keeps users up to date writes one with `SET`, an ad with `HSET`; values are MessagePack maps.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from service.features.redis_address import Command, Node, RedisAddress, by_node, slots_of
from service.features.redis_client import RedisClient
from service.features.redis_connection import CONNECT_SECONDS, RedisLink
from service.features.redis_wire import is_error, packed
from service.features.store import UNTOLD, StoreUnavailable, Values, key_of

logger = logging.getLogger("bidlight")

ADS_IN_A_SCAN = 512
TOPOLOGY_SECONDS = 1.0
# Beside the hash of ads: changes when it is replaced.
VERSION = ":version"


class RedisStore:
    """One connection a node, on which the reads of a turn are one command, or one batch of them a node.

    Where a cluster's node says that a key has moved, its user is not told of this once, and the slots are
    read anew.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._links: dict[Node, RedisLink] = {}
        self._slots: list[Node | None] | None = None
        self._may_ask_slots_at = 0.0
        self._user_prefix = address.user_prefix()

    async def open(self) -> None:
        """Connect, and wait for that a moment: the first requests find their users then."""
        for node in self._address.nodes:
            self._link(node)
        loop = asyncio.get_running_loop()
        until = loop.time() + CONNECT_SECONDS
        while not self._is_open and loop.time() < until:
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Drop all connections."""
        for link in self._links.values():
            await link.close()
        self._links.clear()

    def refresh(self) -> None:
        """Nothing is kept that could be old, but for where a cluster has its keys."""
        self._ask_slots()

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """One command, or one batch of them a node; `then` is called when the last node has answered."""
        keys = [self._user_prefix + key_of(user_id) for user_id in user_ids]
        if not self._address.cluster:
            link = self._links.get(self._address.nodes[0])
            if link is None:
                then(None)
                return
            link.ask(packed([("MGET", *keys)]), 1, lambda replies: then(_all_of(replies)))
            return
        self._read_cluster(keys, then)

    def _read_cluster(self, keys: Sequence[bytes], then: Callable[[Values], None]) -> None:
        slots = self._slots
        if slots is None:
            self._ask_slots()
            then(None)
            return
        parts = by_node(keys, slots)
        read = _ClusterRead(len(keys), len(parts), then, self._ask_slots)
        for node, places in parts.items():
            if node is None:
                read.take(places, None)
                continue
            commands = packed([("GET", keys[place]) for place in places])
            self._link(node).ask(commands, len(places), _taking(read, places))

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All fields of the hash of ads, over a connection of its own."""
        key, version_key, cursor = self._address.ads_key(), self._address.ads_key(VERSION), b""
        with RedisClient(self._address) as client:
            version = client.call("GET", version_key)
            while cursor != b"0":
                cursor, pairs = client.call("HSCAN", key, cursor or b"0", "COUNT", str(ADS_IN_A_SCAN))
                names = [name.decode("utf-8", "replace") for name in pairs[::2]]
                yield list(zip(names, pairs[1::2], strict=True))
            if client.call("GET", version_key) != version:
                raise StoreUnavailable("the ads were replaced while they were read; they will be read again")

    @property
    def _is_open(self) -> bool:
        links = self._links.values()
        return any(link.is_open for link in links) and (self._slots is not None or not self._address.cluster)

    def _link(self, node: Node) -> RedisLink:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = RedisLink(
                self._address, node, self._ask_slots if self._address.cluster else None
            )
            link.start()
        return link

    def _ask_slots(self) -> None:
        """Ask some node where the keys of a cluster are; not many times a second."""
        now = asyncio.get_running_loop().time()
        if not self._address.cluster or (now < self._may_ask_slots_at and self._slots is not None):
            return
        for link in self._links.values():
            if link.is_open:
                self._may_ask_slots_at = now + TOPOLOGY_SECONDS
                link.ask(packed([("CLUSTER", "SLOTS")]), 1, _telling(self._set_slots, link.node))
                return

    def _set_slots(self, replies: list[Any] | None, node: Node) -> None:
        if replies is None:
            return
        try:
            self._slots = slots_of(replies[0], node)
        except ValueError as error:
            logger.error("the cluster at %s:%d cannot be used: %s", *node, error)
            return
        for each in {found for found in self._slots if found is not None}:
            self._link(each)


class _ClusterRead:
    """Users of several nodes, until the last of these has answered."""

    def __init__(
        self, users: int, nodes: int, then: Callable[[Values], None], moved: Callable[[], None]
    ) -> None:
        self._values: list[bytes | None] = [UNTOLD] * users
        self._nodes_left = nodes
        self._then = then
        self._moved = moved

    def take(self, places: Sequence[int], replies: list[Any] | None) -> None:
        """The replies of one node, or None."""
        self._nodes_left -= 1
        if replies is not None:
            for place, reply in zip(places, replies, strict=True):
                if reply is None or isinstance(reply, bytes):
                    self._values[place] = reply
        if replies is None or any(is_error(reply) for reply in replies):
            self._moved()
        if not self._nodes_left:
            self._then(self._values)


def _taking(read: _ClusterRead, places: Sequence[int]) -> Callable[[list[Any] | None], None]:
    return lambda replies: read.take(places, replies)


def _telling(
    told: Callable[[list[Any] | None, Node], None], node: Node
) -> Callable[[list[Any] | None], None]:
    return lambda replies: told(replies, node)


def _all_of(replies: list[Any] | None) -> Values:
    """What MGET found; None for an error (it loads its data, the password is wrong)."""
    return replies[0] if replies is not None and isinstance(replies[0], list) else None


class RedisUsersWriter:
    """Sets a key a user. Those who are not in the load stay, and what was written before an exception."""

    def __init__(self, address: RedisAddress) -> None:
        self._client = RedisClient(address)
        self._prefix = address.user_prefix()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Set them, in one exchange a node. Raises StoreUnavailable."""
        self._client.call_many([("SET", self._prefix + key_of(name), value) for name, value in rows])

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self._client.__exit__(*exception)


class RedisAdsWriter:
    """Fills a hash beside the one that is there, which it replaces at the end: ads not in the load are gone.

    After an exception the old hash is as it was.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._client = RedisClient(address)
        self._ads, self._loading, self._old, self._version = (
            address.ads_key(stage) for stage in ("", ":loading", ":replaced", VERSION)
        )

    def __enter__(self) -> Self:
        """Throw away what an interrupted load has left."""
        try:
            self._client.call("UNLINK", self._loading)
        except BaseException as error:
            self._client.__exit__(error)
            raise
        return self

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Add them to the new hash. Raises StoreUnavailable."""
        if rows:
            words: list[bytes | str] = [part for name, value in rows for part in (key_of(name), value)]
            self._client.call("HSET", self._loading, *words)

    def __exit__(self, *exception: object) -> None:
        """Swap the hashes; the old one is freed in the background, not while requests wait."""
        try:
            if exception[0] is None:
                self._swap()
            else:
                self._client.call("UNLINK", self._loading)
        except StoreUnavailable:
            if exception[0] is None:
                raise
        finally:
            self._client.__exit__(*exception)

    def _swap(self) -> None:
        is_there, is_new = self._client.call_many([("EXISTS", self._ads), ("EXISTS", self._loading)])
        commands: list[Command] = [("SET", self._version, secrets.token_hex(8))]
        if is_there:
            commands.append(("RENAME", self._ads, self._old))
        if is_new:
            commands.append(("RENAME", self._loading, self._ads))
        self._client.call_many([("UNLINK", self._old)])
        self._client.call_together(commands)
        self._client.call_many([("UNLINK", self._old)])
