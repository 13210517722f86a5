"""A `redis://` URL -> a store's nodes, how a connection introduces itself, and the keys of the data.

Which of a cluster's nodes has a key is told here too (Redis cluster specification, "Key distribution model").
"""

from __future__ import annotations

import binascii
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from service.errors import BadConfiguration

Node = tuple[str, int]
Command = tuple[bytes | str, ...]

SLOTS = 16_384
DEFAULT_PORT = 6379
SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")


@dataclass(frozen=True)
class RedisAddress:
    """The nodes to begin with (one, but for a cluster), and what every connection to one of them needs."""

    nodes: tuple[Node, ...]
    cluster: bool = False
    tls: bool = False
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "bidlight:"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """`redis[s][+cluster]://[[user]:password@]host[:port][,host...][/database][?prefix=bidlight:]`.

        Raises BadConfiguration, which does not show the URL: it may hold a password.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise BadConfiguration(
                f"'feature_store' must begin with lmdb:, {':, '.join(SCHEMES)}: (got {parts.scheme!r}); "
                "for example lmdb:///var/lib/bidlight or redis://localhost:6379"
            )
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        cluster, path, query = parts.scheme.endswith("+cluster"), parts.path.strip("/"), parse_qs(parts.query)
        try:
            nodes = tuple(_node(host) for host in hosts.split(","))
            database = int(path or 0)
        except ValueError as error:
            raise _refusal(str(error)) from None
        if len(nodes) > 1 and not cluster:
            raise _refusal("several hosts are a cluster's: redis+cluster://")
        if database < 0 or (database and cluster):
            raise _refusal("the database must be a number from 0, and a cluster has only 0")
        if set(query) - {"prefix"}:
            raise _refusal(f"the only option is prefix (got {sorted(query)})")
        return cls(
            nodes=nodes,
            cluster=cluster,
            tls=parts.scheme.startswith("rediss"),
            database=database,
            username=unquote(username),
            password=unquote(password),
            prefix=query.get("prefix", [cls.prefix])[0],
        )

    def greeting(self) -> list[Command]:
        """What a new connection says first; every one of these answers OK."""
        commands: list[Command] = []
        if self.password:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return commands

    def ssl_context(self) -> ssl.SSLContext | None:
        """How to encrypt, if at all: against the machine's certificates."""
        return ssl.create_default_context() if self.tls else None

    def user_prefix(self) -> bytes:
        """A user's key is this and the id; it holds a string."""
        return f"{self.prefix}user:".encode()

    def ads_key(self, stage: str = "") -> bytes:
        """The key of the hash of all ads, id -> value; a stage of its replacement has the same slot."""
        return f"{{{self.prefix}ads}}{stage}".encode()


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC-16/XMODEM of it, or of what stands in its first braces."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def slots_of(reply: Any, asked: Node) -> list[Node | None]:
    """The node of every slot, as CLUSTER SLOTS tells it. Raises ValueError for anything else.

    A node without a name is the one that was asked.
    """
    found: list[Node | None] = [None] * SLOTS
    try:
        for first, last, master, *_ in reply:
            node = ((master[0] or b"").decode() or asked[0], int(master[1]))
            found[first : last + 1] = [node] * (last + 1 - first)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise ValueError(f"CLUSTER SLOTS must tell the nodes of slots (got {reply!r:.100})") from None
    if len(found) != SLOTS:
        raise ValueError("CLUSTER SLOTS must tell of 16384 slots at most")
    return found


def by_node(keys: Sequence[bytes], slots: Sequence[Node | None]) -> dict[Node | None, list[int]]:
    """The positions of the keys that each node has; those of slots that no node has under None."""
    found: dict[Node | None, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(slots[slot_of(key)], []).append(position)
    return found


def _node(text: str) -> Node:
    """`host`, `host:port` or `[address]:port`. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host must be named, as in redis://localhost:6379")
    return parts.hostname, parts.port or DEFAULT_PORT


def _refusal(reason: str) -> BadConfiguration:
    return BadConfiguration(f"'feature_store' must be the address of a Redis: {reason}")
