"""Features in Redis: a string a user, `bidlight:user:ID`; one hash of all ads, `{bidlight:ads}`.

A program that keeps users up to date writes one with `SET`, an ad with `HSET`; values are MessagePack maps.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from service.errors import BadConfiguration
from service.features.store import LossLimit, StoreUnavailable, Values, key_of, missing_library

try:
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.client import Pipeline
    from redis.cluster import ClusterNode
    from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError
    from redis.retry import Retry
except ModuleNotFoundError:
    raise missing_library("redis[hiredis]") from None

from service.features.redis_cluster import ClusterReader
from service.features.redis_pipeline import Command, ConnectionOptions, Node, NodeClient

DEFAULT_PORT = 6379
SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
ADS_IN_A_SCAN = 512
# The time limit of the blocking clients for connecting and for each reply.
SOCKET_SECONDS = 10.0
# Ends the key whose value changes when the hash of ads is replaced.
VERSION = ":version"


@dataclass(frozen=True)
class RedisAddress:
    """The nodes to connect to first (one, unless it is a cluster), and what every connection needs."""

    nodes: tuple[Node, ...]
    cluster: bool = False
    tls: bool = False
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "bidlight:"

    @classmethod
    def parse(cls, url: str, setting: str = "feature_store") -> RedisAddress:
        """`redis[s][+cluster]://[[user]:password@]host[:port][,host...][/database][?prefix=bidlight:]`.

        It is the value of a `setting`. Raises BadConfiguration, which does not show the URL: it may hold a
        password.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            has_files = setting == "feature_store"
            others, example = ("lmdb:, ", "lmdb:///var/lib/bidlight or ") if has_files else ("", "")
            raise BadConfiguration(
                f"'{setting}' must begin with {others}{':, '.join(SCHEMES)}: (got {parts.scheme!r}); "
                f"for example {example}redis://localhost:6379"
            )
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        cluster, path, query = parts.scheme.endswith("+cluster"), parts.path.strip("/"), parse_qs(parts.query)
        try:
            nodes = tuple(_node(host) for host in hosts.split(","))
            database = int(path or 0)
        except ValueError as error:
            raise _refusal(setting, str(error)) from None
        if len(nodes) > 1 and not cluster:
            raise _refusal(setting, "several hosts are a cluster's: redis+cluster://")
        if database < 0 or (database and cluster):
            raise _refusal(setting, "the database must be a number from 0, and a cluster has only 0")
        if set(query) - {"prefix"}:
            raise _refusal(setting, f"the only option is prefix (got {sorted(query)})")
        return cls(
            nodes=nodes,
            cluster=cluster,
            tls=parts.scheme.startswith("rediss"),
            database=database,
            username=unquote(username),
            password=unquote(password),
            prefix=query.get("prefix", [cls.prefix])[0],
        )

    def handshake(self) -> tuple[Command, ...]:
        """The first commands on a connection; each is answered OK."""
        commands: list[Command] = []
        if self.password:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return tuple(commands)

    def user_prefix(self) -> bytes:
        """A user's key is this and the id; it holds a string."""
        return f"{self.prefix}user:".encode()

    def ads_key(self, stage: str = "") -> bytes:
        """The key of the hash of all ads, id -> value; a stage of its replacement has the same slot."""
        return f"{{{self.prefix}ads}}{stage}".encode()


class RedisStore:
    """Users over one connection to each node; ads by a blocking client of their own."""

    needs_refresh = False

    def __init__(self, address: RedisAddress, options: ConnectionOptions | None = None) -> None:
        self._address = address
        self._options = options or ConnectionOptions(address.handshake(), address.tls)
        self._user_prefix = address.user_prefix()
        self._reader: ClusterReader | NodeClient = (
            ClusterReader(address.nodes, self._options)
            if address.cluster
            else NodeClient(address.nodes[0], self._options)
        )

    async def open(self) -> None:
        """Connect, and wait a moment for it, so that the first requests find their users."""
        self._reader.start()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.connect_seconds
        while not self._reader.is_open and loop.time() < until:
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Close all connections."""
        await self._reader.close()

    async def refresh(self, limit: LossLimit) -> bool:
        """Only where a cluster has its keys can be out of date."""
        if isinstance(self._reader, ClusterReader):
            self._reader.refresh()
        return False

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """One command, or one batch of commands a node; `then` is called when the last node has answered."""
        self._reader.read([self._user_prefix + key_of(user_id) for user_id in user_ids], then)

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All fields of the hash of ads."""
        key, version_key = self._address.ads_key(), self._address.ads_key(VERSION)
        cursor, ads = 0, dict[bytes, bytes]()
        with ExitStack() as stack:
            with failures(self._address):
                client = client_of_key(self._address, self._address.ads_key(), stack)
                version = client.get(version_key)
            while True:
                with failures(self._address):
                    cursor, ads = cast(Any, client.hscan(key, cursor, count=ADS_IN_A_SCAN))
                yield [(name.decode("utf-8", "replace"), value) for name, value in ads.items()]
                if not cursor:
                    break
            with failures(self._address):
                if client.get(version_key) == version:
                    return
        raise StoreUnavailable("the ads were replaced while they were read; they will be read again")


class RedisUsersWriter:
    """Sets a key for each user. Users not in the load stay, and so do those written before an exception."""

    is_undone: ClassVar[bool] = False
    longest_key: ClassVar[int | None] = None

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._prefix = address.user_prefix()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Begin. Raises StoreUnavailable."""
        with failures(self._address):
            self._client = blocking_client(self._address, self._stack)
        return self

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Set them, in one round trip to each node. Raises StoreUnavailable."""
        with failures(self._address):
            pipeline = self._client.pipeline(transaction=False)
            for name, value in rows:
                pipeline.set(self._prefix + key_of(name), value)
            pipeline.execute()

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self._stack.close()


def draw_version() -> str:
    """A version that no load of ads had before."""
    return secrets.token_hex(8)


class RedisAdsWriter:
    """Fills a new hash, which replaces the old one at the end: ads that are not in the load are gone.

    After an exception the old hash is as it was.
    """

    is_undone: ClassVar[bool] = True
    longest_key: ClassVar[int | None] = None

    def __init__(self, address: RedisAddress, new_version: Callable[[], str] = draw_version) -> None:
        self._address = address
        self._new_version = new_version
        self._ads, self._loading, self._old, self._version = (
            address.ads_key(stage) for stage in ("", ":loading", ":replaced", VERSION)
        )
        self._has_rows = False

    def __enter__(self) -> Self:
        """Connect, and remove what an interrupted load has left. Raises StoreUnavailable."""
        with failures(self._address), ExitStack() as stack:
            self._client = client_of_key(self._address, self._address.ads_key(), stack)
            self._client.unlink(self._loading)
            self._stack = stack.pop_all()
        return self

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Add them to the new hash. Raises StoreUnavailable."""
        if rows:
            self._has_rows = True
            with failures(self._address):
                self._client.hset(self._loading, mapping={key_of(name): value for name, value in rows})

    def __exit__(self, *exception: object) -> None:
        """Swap the hashes. The old one is freed in the background, so requests do not wait for it."""
        with self._stack:
            if exception[0] is None:
                with failures(self._address):
                    self._client.unlink(self._old)
                    # It starts over if another program changes one of the hashes meanwhile.
                    self._client.transaction(self._swap, self._ads, self._loading)
                    self._client.unlink(self._old)
            else:
                with suppress(RedisError):
                    self._client.unlink(self._loading)

    def _swap(self, pipeline: Pipeline) -> None:
        """The commands of one transaction."""
        is_there, is_new = pipeline.exists(self._ads), pipeline.exists(self._loading)
        if self._has_rows and not is_new:
            raise StoreUnavailable(
                "the ads that were loaded are gone; load them again, by one program at a time"
            )
        pipeline.multi()
        pipeline.set(self._version, self._new_version())
        if is_there:
            pipeline.rename(self._ads, self._old)
        if is_new:
            pipeline.rename(self._loading, self._ads)


def blocking_client(
    address: RedisAddress, stack: ExitStack, seconds: float = SOCKET_SECONDS
) -> Redis | RedisCluster:
    """A blocking client, which `stack` closes. It follows redirections in a cluster, and retries nothing.

    Connecting, and each reply, takes `seconds` at most.
    """
    options: dict[str, Any] = {
        "username": (address.username or None) if address.password else None,
        "password": address.password or None,
        "ssl": address.tls,
        "protocol": 2,  # that of the pipelines, and of older servers
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    client: Redis | RedisCluster
    if address.cluster:
        nodes = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
        client = RedisCluster(startup_nodes=nodes, **options)
    else:
        host, port = address.nodes[0]
        client = Redis(host=host, port=port, db=address.database, **options)
    stack.callback(client.close)
    return client


def client_of_key(
    address: RedisAddress, key: bytes, stack: ExitStack, seconds: float = SOCKET_SECONDS
) -> Redis:
    """A blocking client of the node that has a key, and others with its hash tag.

    It follows no redirection: a scan that continued on another node would miss ads.
    """
    client = blocking_client(address, stack, seconds)
    if isinstance(client, RedisCluster):
        node = client.get_node_from_key(key)  # type: ignore[no-untyped-call]
        return client.get_redis_connection(node)
    return client


@contextmanager
def failures(address: RedisAddress) -> Iterator[None]:
    """Turn the errors of the clients into StoreUnavailable."""
    try:
        yield
    except (AuthenticationError, ResponseError) as error:
        code = f"{error.status_code} " if error.status_code else ""
        raise StoreUnavailable(f"the Redis refuses: {code}{error}") from None
    except (RedisError, RedisClusterException, OSError) as error:
        nodes = ", ".join(f"{host}:{port}" for host, port in address.nodes)
        raise StoreUnavailable(f"the Redis at {nodes} cannot be reached: {error}") from None


def _node(text: str) -> Node:
    """`host`, `host:port` or `[address]:port`. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host must be named, as in redis://localhost:6379")
    return parts.hostname, parts.port or DEFAULT_PORT


def _refusal(setting: str, reason: str) -> BadConfiguration:
    return BadConfiguration(f"'{setting}' must be the address of a Redis: {reason}")
