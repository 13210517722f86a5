"""Events count once over machines: who is first is asked in a store, for so long and no longer.

It knows neither tokens nor what is counted. An event that the store does not answer for in time counts, and
is asked for again later: by then it is known whether another machine has counted it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.features.store import UNREAD, Values

if TYPE_CHECKING:
    from service.feedback.store import EventStore

# What came of an event that was asked for.
FIRST, KNOWN, UNCHECKED = "first", "known", "unchecked"
# What came later of one that was unchecked.
CONFIRMED, TWICE, FORGOTTEN = "confirmed", "twice", "forgotten"
OUTCOMES = (FIRST, KNOWN, UNCHECKED, CONFIRMED, TWICE, FORGOTTEN)
# A process keeps so many events to ask for again, of 32 bytes; of more, the oldest are forgotten.
MAX_WAITING = 131_072
# So many of the last that it was first to count are asked for again when the store is back: it may have lost
# them.
MAX_LATEST = 65_536
ASKED_AGAIN_AT_ONCE = 512
PAUSE_SECONDS = 0.05

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Events:
    """Fingerprints [n], and until when [n] their tokens are taken; whether they count without an answer."""

    fingerprints: NDArray[np.uint64]
    until_ms: NDArray[np.int64]
    is_unchecked: bool = False

    def __len__(self) -> int:
        return len(self.fingerprints)

    def of(self, chosen: Any, *, is_unchecked: bool) -> _Events:
        return _Events(self.fingerprints[chosen], self.until_ms[chosen], is_unchecked)


class _Bounded:
    """Events, the oldest first, of which the oldest are dropped beyond `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: deque[_Events] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, events: _Events) -> list[_Events]:
        """Add some; those that are dropped for them."""
        if len(events):
            self._parts.append(events)
            self._count += len(events)
        dropped = []
        while self._count > self._most:
            dropped.append(self.take())
        return dropped

    def take(self) -> _Events:
        """The oldest of them."""
        events = self._parts.popleft()
        self._count -= len(events)
        return events

    def take_all(self) -> list[_Events]:
        """All of them."""
        found = [*self._parts]
        self._parts.clear()
        self._count = 0
        return found


class Claims:
    """Asks the `store` for events, each for `seconds` at most; `tell` is told what came of how many.

    `clock` is Unix time in milliseconds.
    """

    def __init__(
        self,
        store: EventStore,
        seconds: float,
        tell: Callable[[str, int], object],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._tell = tell
        self._clock = clock
        self._waiting = _Bounded(MAX_WAITING)
        self._latest = _Bounded(MAX_LATEST)
        self._is_asking_again = False

    @property
    def unchecked(self) -> int:
        """How many events are to be asked for again."""
        return len(self._waiting)

    def ask(
        self, fingerprints: NDArray[np.uint64], until_ms: NDArray[np.int64], then: Callable[[Flags], None]
    ) -> None:
        """Ask for events [n] whose tokens are taken until then [n].

        `then` gets for each [n] whether it counts here: once, from within this call or later.
        """
        _Asked(self, _Events(fingerprints, until_ms), then).start(self._store, self._seconds, self._clock())

    def ask_again(self) -> None:
        """Ask for events that count without an answer, if there are any and the store may answer."""
        if self._is_asking_again or not len(self._waiting) or not self._store.is_open:
            return
        self._is_asking_again = True
        events = self._waiting.take()
        now = self._clock()

        def take(values: Values) -> None:
            self._is_asking_again = False
            outcomes = self.read(values, len(events))
            self.settle(events, outcomes)
            loop = asyncio.get_running_loop()
            if (outcomes == _UNANSWERED).any():
                loop.call_later(PAUSE_SECONDS, self.ask_again)
            else:
                loop.call_soon(self.ask_again)

        self._store.claim(events.fingerprints, events.until_ms - now, take)

    def close(self) -> None:
        """Nothing more is asked for: what waits is forgotten."""
        self._forget(self._waiting.take_all())

    def read(self, values: Values, count: int) -> NDArray[np.uint8]:
        """What the store says of `count` events: MINE, THEIRS or UNANSWERED."""
        if values is None:
            return np.full(count, _UNANSWERED, np.uint8)
        owner = self._store.owner
        kinds = [
            _MINE if value is None or value == owner else _UNANSWERED if value == UNREAD else _THEIRS
            for value in values
        ]
        return np.array(kinds, np.uint8)

    def settle(self, events: _Events, outcomes: NDArray[np.uint8]) -> None:
        """Tell what came of events that count already."""
        mine = outcomes == _MINE
        self.tell(TWICE, int(np.count_nonzero(outcomes == _THEIRS)))
        if events.is_unchecked:
            self.tell(CONFIRMED, int(np.count_nonzero(mine)))
        self.remember(events.of(mine, is_unchecked=False))
        self.keep(events.of(outcomes == _UNANSWERED, is_unchecked=events.is_unchecked))

    def keep(self, events: _Events) -> None:
        """Ask for these again later."""
        for start in range(0, len(events), ASKED_AGAIN_AT_ONCE):
            some = slice(start, start + ASKED_AGAIN_AT_ONCE)
            self._forget(self._waiting.add(events.of(some, is_unchecked=events.is_unchecked)))

    def remember(self, events: _Events) -> None:
        """This process was first to count these."""
        self._latest.add(events)

    def _forget(self, dropped: Iterable[_Events]) -> None:
        """These are asked for no more."""
        self.tell(FORGOTTEN, sum(len(events) for events in dropped if events.is_unchecked))

    def tell(self, outcome: str, count: int) -> None:
        """Tell what came of so many, if there are any."""
        if count:
            self._tell(outcome, count)

    def ask_for_latest(self) -> None:
        """Ask for the last events too: the store is back, and may have lost what it was told last."""
        now = self._clock()
        for events in self._latest.take_all():
            self.keep(events.of(events.until_ms > now, is_unchecked=False))
        asyncio.get_running_loop().call_soon(self.ask_again)


_MINE, _THEIRS, _UNANSWERED = range(3)


class _Asked:
    """Events that the store is asked for: `then` is told by its answer, or without it when time is up."""

    def __init__(self, claims: Claims, events: _Events, then: Callable[[Flags], None]) -> None:
        self._claims = claims
        self._events = events
        self._then: Callable[[Flags], None] | None = then
        self._timer: asyncio.TimerHandle | None = None

    def start(self, store: EventStore, seconds: float, now: int) -> None:
        store.claim(self._events.fingerprints, self._events.until_ms - now, self._take)
        if self._then is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _take(self, values: Values) -> None:
        claims, events, then = self._claims, self._events, self._then
        outcomes = claims.read(values, len(events))
        if then is None:  # it was told that all of them count
            claims.settle(events.of(slice(None), is_unchecked=True), outcomes)
            return
        self._end()
        theirs, unanswered = outcomes == _THEIRS, outcomes == _UNANSWERED
        claims.tell(FIRST, int(np.count_nonzero(outcomes == _MINE)))
        claims.tell(KNOWN, int(np.count_nonzero(theirs)))
        claims.tell(UNCHECKED, int(np.count_nonzero(unanswered)))
        claims.remember(events.of(outcomes == _MINE, is_unchecked=False))
        claims.keep(events.of(unanswered, is_unchecked=True))
        then(~theirs)

    def _give_up(self) -> None:
        then = self._then
        if then is not None:
            self._end()
            self._claims.tell(UNCHECKED, len(self._events))
            then(np.ones(len(self._events), bool))

    def _end(self) -> None:
        self._then = None
        if self._timer is not None:
            self._timer.cancel()
