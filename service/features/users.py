"""Users' features for requests: one read for all requests of a turn of the loop, with a deadline.

It knows no schema and no arm: what it finds are raw values by field, for the encoder of whoever asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from service.features.store import (
    INVALID,
    LATE,
    UNAVAILABLE,
    UNKNOWN_USER,
    UNTOLD,
    FeatureStore,
    Values,
    unpack,
)

logger = logging.getLogger("bidlight")

# Told once: a user's features, or none and why they are missing.
Then = Callable[[dict[str, Any], str | None], None]


class UserFeatures:
    """Whoever asks within a turn of the loop shares one read, sent when the turn is over.

    After `timeout_seconds` they are told that the features are missing, and what comes later is thrown away.
    """

    def __init__(
        self, store: FeatureStore, timeout_seconds: float, observe: Callable[[float], object] | None = None
    ) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._observe = observe
        self._turn: list[tuple[str, Then]] = []
        self._reads: set[_Read] = set()

    def find(self, user_id: str, then: Then) -> None:
        """Have `then` told of the user's features, soon."""
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._send)
        self._turn.append((user_id, then))

    async def drain(self) -> None:
        """Return when everybody has been told."""
        while self._turn or self._reads:
            await asyncio.sleep(0.001)

    def _send(self) -> None:
        turn, self._turn = self._turn, []
        read = _Read([then for _, then in turn], self._forget)
        self._reads.add(read)
        try:
            self._store.read_users([user_id for user_id, _ in turn], read.arrive)
        except Exception:
            logger.exception("a read of users failed")
            read.arrive(None)
        if not read.is_over:
            read.expire_in(self._timeout_seconds)

    def _forget(self, read: _Read) -> None:
        self._reads.discard(read)
        if self._observe is not None:
            self._observe(perf_counter() - read.started)


class _Read:
    """One read under way: everybody who waits for it is told once, of what came or that it is late."""

    def __init__(self, waiting: list[Then], forget: Callable[[_Read], None]) -> None:
        self.started = perf_counter()
        self.is_over = False
        self._waiting = waiting
        self._forget = forget
        self._timer: asyncio.Handle | None = None

    def arrive(self, values: Values) -> None:
        """The store's answer; if the deadline has passed, nobody hears it."""
        if self.is_over:
            return
        self._end()
        if values is None:
            self._tell_all(UNAVAILABLE)
            return
        for then, value in zip(self._waiting, values, strict=True):
            if value is None:
                _tell(then, {}, UNKNOWN_USER)
            elif value == UNTOLD:
                _tell(then, {}, UNAVAILABLE)
            else:
                try:
                    features = unpack(value)
                except ValueError as error:
                    logger.error("a user's features cannot be read: %s", error)
                    _tell(then, {}, INVALID)
                else:
                    _tell(then, features, None)

    def expire_in(self, seconds: float) -> None:
        """Tell everybody after so long that there is nothing."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look_once_more, 2)

    def _look_once_more(self, turns: int) -> None:
        """After the loop was busy, timers come before the sockets are read: the answer may lie there."""
        if turns:
            self._timer = asyncio.get_running_loop().call_soon(self._look_once_more, turns - 1)
        elif not self.is_over:
            self._end()
            self._tell_all(LATE)

    def _end(self) -> None:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._forget(self)

    def _tell_all(self, reason: str) -> None:
        for then in self._waiting:
            _tell(then, {}, reason)


def _tell(then: Then, features: dict[str, Any], reason: str | None) -> None:
    try:
        then(features, reason)
    except Exception:  # the others wait too
        logger.exception("a request could not go on with its user's features")
