"""What machines share of events in a Redis: who was first to count each, and the sources of tokens.

It knows keys and commands, and not what is counted. The fingerprint of an event is a key, which the first
process to ask for it sets: `SET key owner NX GET`, of Redis 7. It goes when its token has expired.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.features.redis import RedisAddress
from service.features.redis_cluster import ClusterReader
from service.features.redis_pipeline import Command, ConnectionOptions, NodeClient
from service.features.store import Values
from service.feedback.tokens import Source

SETTING = "feedback_store"


class EventStore:
    """One connection to each node of the Redis at `url`. Raises BadConfiguration.

    `owner` stands for this process, and for no other that ever was.
    """

    def __init__(self, url: str, options: ConnectionOptions | None = None) -> None:
        self._address = address = RedisAddress.parse(url, SETTING)
        self._options = options or ConnectionOptions(address.handshake(), address.tls)
        self._on_open: Callable[[], None] = lambda: None
        self.owner = b"%d" % secrets.randbits(62)
        self._client: ClusterReader | NodeClient = (
            ClusterReader(address.nodes, self._options, self._opened)
            if address.cluster
            else NodeClient(address.nodes[0], self._options, self._opened)
        )
        self._event_prefix = f"{address.prefix}e:".encode()
        self._source_prefix = f"{address.prefix}source:".encode()

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._client.is_open

    def start(self, on_open: Callable[[], None]) -> None:
        """Connect in the background of the running event loop, and stay connected.

        `on_open` is called whenever a node is connected.
        """
        self._on_open = on_open
        self._client.start()

    def _opened(self) -> None:
        self._on_open()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def claim(
        self, fingerprints: NDArray[np.uint64], lasts_ms: NDArray[np.int64], then: Callable[[Values], None]
    ) -> None:
        """Ask who counts events [n] whose tokens last for so long [n].

        `then` gets for each None, so it is this process from now on; or the owner, who may be this process
        too; or UNREAD. It gets None without a reply.
        """
        keys = [self._event_prefix + each.tobytes() for each in fingerprints.astype("<u8")]
        lasts = np.maximum(lasts_ms, 1).tolist()  # the clock may have been set meanwhile
        commands: list[Command] = [
            ("SET", key, self.owner, "NX", "GET", "PX", str(last))
            for key, last in zip(keys, lasts, strict=True)
        ]
        self._client.ask(keys, commands, then)

    def announce(self, sources: Sequence[Source], lasts_ms: int) -> None:
        """Let all machines know these sources for so long."""
        keys = [self._source_key(source.number) for source in sources]
        commands: list[Command] = [
            ("SET", key, source.pack(), "PX", str(lasts_ms), "GET")
            for key, source in zip(keys, sources, strict=True)
        ]
        if keys:
            self._client.ask(keys, commands, lambda _: None)

    def find(self, numbers: Sequence[int], then: Callable[[list[Source] | None], None]) -> None:
        """The sources of these numbers that some machine knows, None if that is not known for all of them."""
        keys = [self._source_key(number) for number in numbers]

        def take(values: Values) -> None:
            if values is None or b"" in values:
                then(None)
            else:
                found = [*map(_source_in, filter(None, values))]
                then([source for source in found if source is not None and source.number in numbers])

        self._client.ask(keys, [("GET", key) for key in keys], take)

    def _source_key(self, number: int) -> bytes:
        return self._source_prefix + b"%08x" % number


def _source_in(value: bytes) -> Source | None:
    """The source in a value, None if it is another one's."""
    try:
        return Source.unpack(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
