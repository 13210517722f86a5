"""Users' features for requests: one read for all requests of an event-loop iteration, with a deadline.

It knows no schema and no arm: it finds raw values by field, which the encoder of an arm judges.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from service.features.known_share import KnownShare
from service.features.store import (
    EMPTIED,
    INVALID,
    LATE,
    UNAVAILABLE,
    UNKNOWN_USER,
    UNREAD,
    FeatureStore,
    Values,
    unpack,
)

logger = logging.getLogger("bidlight")

# Called once: with a user's features and None, or with no features and why they are missing.
Then = Callable[[dict[str, Any], str | None], None]


class UserFeatures:
    """All requests of an event-loop iteration share one read, which is sent at its end.

    After `timeout_seconds` they go on without features; the read is not cancelled, its values are dropped.
    """

    def __init__(
        self,
        store: FeatureStore,
        timeout_seconds: float,
        observe: Callable[[float], object] | None = None,
        known: KnownShare | None = None,
    ) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._observe = observe
        self._known = known or KnownShare(most_lost=1.0)
        self._asked: list[tuple[str, Then]] = []
        self._reads: set[_Read] = set()

    def find(self, user_id: str, then: Then, at_most_seconds: float | None = None) -> None:
        """Call `then` with the user's features, in a later iteration, or after `at_most_seconds` without."""
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._send)
        if at_most_seconds is not None and at_most_seconds < self._timeout_seconds:
            then = _Hurried(then, at_most_seconds)
        self._asked.append((user_id, then))

    async def drain(self) -> None:
        """Wait until every `then` has been called."""
        while self._asked or self._reads:
            await asyncio.sleep(0.001)

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        read = _Read([then for _, then in asked], self._forget, self._known)
        self._reads.add(read)
        try:
            self._store.read_users([user_id for user_id, _ in asked], read.arrive)
        except Exception:
            logger.exception("a read of users failed")
            read.arrive(None)
        if not read.is_over:
            read.expire_in(self._timeout_seconds)

    def _forget(self, read: _Read) -> None:
        self._reads.discard(read)
        if self._observe is not None:
            self._observe(perf_counter() - read.started)


class _Timer:
    """Calls `then` after so long, and two more iterations.

    A busy loop runs due timers before it reads what sockets hold.
    """

    def __init__(self, seconds: float, then: Callable[[], object]) -> None:
        self._then = then
        self._handle: asyncio.Handle = asyncio.get_running_loop().call_later(seconds, self._run, 2)

    def cancel(self) -> None:
        """Call nothing."""
        self._handle.cancel()

    def _run(self, iterations: int) -> None:
        if iterations:
            self._handle = asyncio.get_running_loop().call_soon(self._run, iterations - 1)
        else:
            self._then()


class _Hurried:
    """Calls `then` once: with what a read finds, or because that comes too late for this request."""

    def __init__(self, then: Then, seconds: float) -> None:
        self._then: Then | None = then
        self._timer = _Timer(seconds, lambda: self({}, LATE))

    def __call__(self, features: dict[str, Any], reason: str | None) -> None:
        then, self._then = self._then, None
        self._timer.cancel()
        if then is not None:
            then(features, reason)


class _Read:
    """One read in flight; each caller is called once, with its values or because they are late."""

    def __init__(self, waiting: list[Then], forget: Callable[[_Read], None], known: KnownShare) -> None:
        self.started = perf_counter()
        self.is_over = False
        self._waiting = waiting
        self._forget = forget
        self._known = known
        self._timer: _Timer | None = None

    def arrive(self, values: Values) -> None:
        """Take the store's values; after the deadline they are dropped."""
        if self.is_over:
            return
        self._end()
        if values is not None and len(values) != len(self._waiting):
            logger.error("a read of %d users had %d values", len(self._waiting), len(values))
            values = None
        if values is None:
            self._tell_all(UNAVAILABLE)
            return
        unanswered, unknown = values.count(UNREAD), values.count(None)
        self._known.count(len(values) - unanswered - unknown, len(values) - unanswered)
        for then, value in zip(self._waiting, values, strict=True):
            if value is None:
                _tell(then, {}, EMPTIED if self._known.is_lost else UNKNOWN_USER)
            elif value == UNREAD:
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
        """After so long, tell all callers that the values are late."""
        self._timer = _Timer(seconds, self._expire)

    def _expire(self) -> None:
        if not self.is_over:
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
    except Exception:  # the other requests still wait
        logger.exception("a request could not go on with its user's features")
