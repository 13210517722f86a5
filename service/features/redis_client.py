"""A blocking client of a Redis or of a cluster, for the loader and for reading all ads; not for requests."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from service.features.redis_address import Command, Node, RedisAddress, by_node, slots_of
from service.features.redis_wire import ProtocolError, Reader, is_error, packed
from service.features.store import StoreUnavailable

SOCKET_SECONDS = 10.0
READ_BYTES = 1 << 16
TRIES = 5
PAUSE_SECONDS = 0.2


class RedisClient:
    """Commands with a key each, many at once, every one to the node that has its key.

    What fails is a StoreUnavailable; the client is then of no more use. Leave it to close it.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._sockets: dict[Node, _Socket] = {}
        self._slots: list[Node | None] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

    def call(self, *command: bytes | str) -> Any:
        """The reply to one command, whose second word is its key."""
        return self.call_many([command])[0]

    def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in order. A command that a cluster has moved is sent again to where it is now."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for attempt in range(TRIES):
            self._send(commands, left, replies)
            left = [place for place in left if _is_moved(replies[place])]
            if not left:
                for reply in replies:
                    _raise_if_error(reply)
                return replies
            self._slots = []
            time.sleep(PAUSE_SECONDS * attempt)
        raise StoreUnavailable(f"the cluster at {_show(self._address.nodes[0])} moves its keys; try again")

    def call_together(self, commands: Sequence[Command]) -> None:
        """All commands or none, and nobody sees a part of them; their keys have one slot."""
        node = next(iter(self._nodes_of(commands[:1])))
        for reply in self._socket(node).exchange([("MULTI",), *commands, ("EXEC",)]):
            _raise_if_error(reply)

    def _send(self, commands: Sequence[Command], places: Sequence[int], replies: list[Any]) -> None:
        for node, its in self._nodes_of([commands[place] for place in places]).items():
            mine = [places[position] for position in its]
            found = self._socket(node).exchange([commands[place] for place in mine])
            for place, reply in zip(mine, found, strict=True):
                replies[place] = reply

    def _nodes_of(self, commands: Sequence[Command]) -> dict[Node, list[int]]:
        """The positions of the commands that go to each node."""
        if not self._address.cluster:
            return {self._address.nodes[0]: list(range(len(commands)))}
        if not self._slots:
            self._slots = self._read_slots()
        found: dict[Node, list[int]] = {}
        for node, places in by_node([_bytes(command[1]) for command in commands], self._slots).items():
            if node is None:
                raise StoreUnavailable("a slot of the cluster has no node; look at CLUSTER INFO")
            found[node] = places
        return found

    def _read_slots(self) -> list[Node | None]:
        """From the first node that tells them."""
        refusal: Exception = StoreUnavailable("no node was named")
        for node in self._address.nodes:
            try:
                reply = self._socket(node).exchange([("CLUSTER", "SLOTS")])[0]
                _raise_if_error(reply)
                return slots_of(reply, node)
            except (StoreUnavailable, ValueError) as error:
                refusal = error
        raise StoreUnavailable(str(refusal))

    def _socket(self, node: Node) -> _Socket:
        found = self._sockets.get(node)
        if found is None:
            found = self._sockets[node] = _Socket(self._address, node)
        return found


class _Socket:
    """A connection to one node."""

    def __init__(self, address: RedisAddress, node: Node) -> None:
        self._node = node
        self._reader = Reader()
        try:
            self._socket: socket.socket = socket.create_connection(node, timeout=SOCKET_SECONDS)
        except OSError as error:
            raise self._lost(error) from None
        try:
            tls = address.ssl_context()
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=node[0])
            for reply in self.exchange(address.greeting()):
                _raise_if_error(reply)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._lost(error) from None
            raise

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, read as many replies."""
        replies: deque[Any] = deque()
        try:
            self._socket.sendall(packed(commands))
            while len(replies) < len(commands):
                reply = self._reader.gets()
                if reply is not False:
                    replies.append(reply)
                    continue
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("it closed the connection")
                self._reader.feed(data)
        except (OSError, ProtocolError) as error:
            raise self._lost(error) from None
        return list(replies)

    def close(self) -> None:
        self._socket.close()

    def _lost(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"the Redis at {_show(self._node)} cannot be reached: {error}")


def _bytes(part: bytes | str) -> bytes:
    return part.encode() if isinstance(part, str) else part


def _is_moved(reply: Any) -> bool:
    """Whether a cluster says to ask another node, or again."""
    return is_error(reply) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN"))


def _raise_if_error(reply: Any) -> None:
    if is_error(reply):
        raise StoreUnavailable(f"the Redis refuses: {reply}")


def _show(node: Node) -> str:
    return f"{node[0]}:{node[1]}"
