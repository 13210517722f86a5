"""The ledger of all machines in a Redis, and their reports; it knows what neither holds.

A connection is made for each visit, so that a process that forks has none. Whatever takes longer than
SOCKET_SECONDS is given up.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple, cast

from redis.exceptions import WatchError

from service.calibration.errand import Advanced, Errand
from service.calibration.ledger import FORGET_MS, FORMAT
from service.features.redis import RedisAddress, client_of_key, failures

SETTING = "feedback_store"
SOCKET_SECONDS = 0.5


class Visited(NamedTuple):
    """The ledger as it is now, and how this visit has changed it; None: not at all."""

    ledger: bytes
    advanced: Advanced | None


class LedgerStore:
    """The Redis at `url`. Raises BadConfiguration."""

    def __init__(self, url: str, seconds: float = SOCKET_SECONDS) -> None:
        self._address = RedisAddress.parse(url, SETTING)
        self._seconds = seconds
        # One slot of a cluster has both. Services that write them in another way have others.
        self._ledger, self._reports = (
            f"{{{self._address.prefix}live}}:{name}:{FORMAT}".encode() for name in ("ledger", "reports")
        )

    def visit(self, errand: Errand) -> Visited:
        """Report, and change the ledger unless somebody else does so meanwhile. Raises StoreUnavailable."""
        with ExitStack() as stack, failures(self._address):
            client = client_of_key(self._address, self._ledger, stack, self._seconds)
            pipeline = stack.enter_context(client.pipeline(transaction=False))
            if errand.reports:
                pipeline.hset(self._reports, mapping=cast(Any, dict(errand.reports)))
                pipeline.pexpire(self._reports, 2 * FORGET_MS)
                pipeline.execute()
            pipeline.watch(self._ledger)  # type: ignore[no-untyped-call]
            found = cast("bytes | None", pipeline.get(self._ledger))
            advanced = errand.advance(found, lambda: cast(Any, pipeline.hgetall(self._reports)))
            if advanced is None:
                assert found is not None
                return Visited(found, None)
            pipeline.multi()
            pipeline.set(self._ledger, advanced.ledger, px=2 * FORGET_MS)
            if advanced.stale:
                pipeline.hdel(self._reports, *advanced.stale)
            try:
                pipeline.execute()
            except WatchError:  # another machine was first
                return Visited(cast(bytes, client.get(self._ledger)) or advanced.ledger, None)
            return Visited(advanced.ledger, advanced)
