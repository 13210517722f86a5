"""Commands to a Redis cluster: every key is read from, or written to, the node that has its slot.

Source: the Redis cluster specification, "Redirection and resharding". redis-py finds the slots for the loader
and the catalogue, but holds an event loop for longer than the deadline of a read: docs/decisions/redis.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from service.bundle.errors import show
from service.features.redis_pipeline import (
    Command,
    ConnectionOptions,
    Node,
    NodeClient,
    UnexpectedReply,
    is_error,
    is_value,
)
from service.features.store import UNREAD, Values

logger = logging.getLogger("bidlight")

# The least time between two CLUSTER SLOTS.
TOPOLOGY_SECONDS = 1.0
# The specification's number of nodes; whatever names more is no cluster.
MAX_NODES = 1000
LONGEST_HOST = 253


class ClusterReader:
    """A client for each node, and the node of each slot.

    `nodes` are connected first; the others are found through them. A command for a key that has moved follows
    the redirection of its old node, and the slots are read again. `on_open` is called whenever a node is
    connected.
    """

    def __init__(
        self, nodes: Sequence[Node], options: ConnectionOptions, on_open: Callable[[], None] | None = None
    ) -> None:
        self._first_nodes = nodes
        self._options = options
        self._on_open = on_open
        self._clients: dict[Node, NodeClient] = {}
        self._slots: list[Node | None] | None = None
        self._nodes: set[Node] = set()  # those that have slots
        self._may_ask_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether every node that has slots is connected."""
        clients = map(self._clients.get, self._nodes)
        return self._slots is not None and all(client is not None and client.is_open for client in clients)

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        for node in self._first_nodes:
            self.client(node)

    async def close(self) -> None:
        """Close all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.close()

    def client(self, node: Node) -> NodeClient | None:
        """The client of a node, which may not be connected yet; None for a node too many."""
        client = self._clients.get(node)
        if client is None:
            if len(self._clients) >= MAX_NODES:
                return None
            client = self._clients[node] = NodeClient(node, self._options, self._opened)
            client.start()
        return client

    def read(self, keys: Sequence[bytes], then: Callable[[Values], None]) -> None:
        """The value of every key: None where it has none, UNREAD where its node does not answer."""
        self.ask(keys, [("GET", key) for key in keys], then)

    def ask(self, keys: Sequence[bytes], commands: Sequence[Command], then: Callable[[Values], None]) -> None:
        """What a command for each key returns, a value or None; UNREAD where its node does not answer."""
        if self._slots is None:
            self.refresh()
            then(None)
        else:
            _Read(self, keys, commands, then).start(self._slots)

    def _opened(self) -> None:
        self.refresh()
        if self._on_open is not None:
            self._on_open()

    def refresh(self) -> None:
        """Ask a node for the slots of all nodes, at most once in TOPOLOGY_SECONDS."""
        now = asyncio.get_running_loop().time()
        if now < self._may_ask_at and self._slots is not None:
            return
        for client in self._clients.values():
            if client.is_open:
                self._may_ask_at = now + TOPOLOGY_SECONDS
                client.send([("CLUSTER", "SLOTS")], partial(self._take_slots, client.node))
                return

    def _take_slots(self, node: Node, replies: list[Any] | None) -> None:
        if replies is None:
            return
        if is_error(replies[0]):
            logger.error("the cluster at %s:%d cannot be used: %s", *node, replies[0])
            return
        try:
            self._slots = slots_of(replies[0], node)
        except ValueError as error:
            raise UnexpectedReply(str(error)) from None
        self._nodes = {each for each in self._slots if each is not None}
        self._forget_others()
        for each in self._nodes:
            self.client(each)

    def _forget_others(self) -> None:
        """Stop the clients of nodes that were left, or that never were there: no slots, no connection."""
        for node, client in list(self._clients.items()):
            if not client.is_open and node not in self._nodes and node not in self._first_nodes:
                del self._clients[node]
                client.stop()


class _Read:
    """A command for each of some keys of several nodes, until the last of these has answered."""

    def __init__(
        self,
        cluster: ClusterReader,
        keys: Sequence[bytes],
        commands: Sequence[Command],
        then: Callable[[Values], None],
    ) -> None:
        self._cluster = cluster
        self._keys, self._commands = keys, commands
        self._then = then
        self._values: list[bytes | None] = [UNREAD] * len(keys)
        self._unanswered = 0

    def start(self, slots: Sequence[Node | None]) -> None:
        """Send a batch of commands to each node that has keys."""
        places_of: dict[Node | None, list[int]] = {}
        for place, key in enumerate(self._keys):
            places_of.setdefault(slots[key_slot(key)], []).append(place)
        self._unanswered = len(places_of)
        for node, places in places_of.items():
            if node is None:
                self._take(places, None, None)
            else:
                self._ask(node, places, [self._commands[place] for place in places], may_redirect=True)

    def _ask(self, node: Node, places: list[int], commands: Sequence[Command], *, may_redirect: bool) -> None:
        """Commands, of which the last are those of the places."""
        asked = node if may_redirect else None

        def take(replies: list[Any] | None) -> None:
            self._take(places, None if replies is None else replies[-len(places) :], asked)

        client = self._cluster.client(node)
        if client is None:
            take(None)
        else:
            client.send(commands, take)

    def _take(self, places: Sequence[int], replies: list[Any] | None, node: Node | None) -> None:
        """The replies for places, or None. A redirection by `node` is followed, if that is not None.

        Raises UnexpectedReply when all places have been told.
        """
        unexpected: UnexpectedReply | None = None
        if replies is None:
            self._cluster.refresh()
        else:
            for place, reply in zip(places, replies, strict=True):
                try:
                    self._take_one(place, reply, node)
                except UnexpectedReply as error:
                    unexpected = error
        self._unanswered -= 1
        if not self._unanswered:
            self._then(self._values)
        if unexpected is not None:
            raise unexpected

    def _take_one(self, place: int, reply: Any, node: Node | None) -> None:
        if is_value(reply):
            self._values[place] = reply
        elif is_error(reply):
            self._redirect(place, str(reply), node)
        else:
            raise UnexpectedReply(f"{self._commands[place][0]!s} must have a value (got {show(reply)})")

    def _redirect(self, place: int, error: str, node: Node | None) -> None:
        """Ask for a key where the cluster has moved it (MOVED), or is just moving it (ASK).

        Raises UnexpectedReply for a redirection without a target.
        """
        code, _, where = error.partition(" ")
        if code != "ASK":
            self._cluster.refresh()
        if code not in ("ASK", "MOVED"):
            logger.error("a node of the cluster refuses %s: %s", self._commands[place][0], error)
            return
        if node is None:
            return
        try:
            target = target_of(where, node)
        except ValueError:
            raise UnexpectedReply(f"{code} must name a slot and a node (got {show(error)})") from None
        command = self._commands[place]
        self._unanswered += 1
        self._ask(target, [place], [("ASKING",), command] if code == "ASK" else [command], may_redirect=False)


def target_of(where: str, asked: Node) -> Node:
    """The node in `SLOT HOST:PORT` of a redirection by the node that was asked. Raises ValueError."""
    slot, address = where.split(" ")
    if int(slot) not in range(REDIS_CLUSTER_HASH_SLOTS):
        raise ValueError(f"a slot must be below {REDIS_CLUSTER_HASH_SLOTS} (got {slot!r})")
    host, port = address.rsplit(":", 1)
    return _node(host, int(port), asked)


def slots_of(reply: Any, asked: Node) -> list[Node | None]:
    """The node of every slot, from the reply to CLUSTER SLOTS. Raises ValueError for anything else."""
    found: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    listed = 0
    try:
        for first, last, master, *_ in reply:
            node = _node((master[0] or b"").decode(), int(master[1]), asked)
            listed += last + 1 - first
            if not 0 <= first <= last < REDIS_CLUSTER_HASH_SLOTS >= listed:
                raise ValueError
            found[first : last + 1] = [node] * (last + 1 - first)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
        raise ValueError(f"CLUSTER SLOTS must list the nodes of slots (got {show(reply)})") from None
    if len(set(found)) > MAX_NODES:
        raise ValueError(f"CLUSTER SLOTS must list at most {MAX_NODES} nodes (got {len(set(found))})")
    return found


def _node(host: str, port: int, asked: Node) -> Node:
    """A node without a host does not know its name: it is at the host that was asked. Raises ValueError."""
    if not 0 < port < 1 << 16:
        raise ValueError(f"a port must be from 1 to 65535 (got {port})")
    if len(host) > LONGEST_HOST or not (host.isascii() and host.isprintable()):
        raise ValueError(f"a host must be a name or an address (got {show(host)})")
    return host or asked[0], port
