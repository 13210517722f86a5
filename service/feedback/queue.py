"""Events that wait to be counted: of all requests together, a slice in an iteration of the event loop.

It knows neither tokens nor HTTP, only that something else may come first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from service.errors import Overloaded, ServiceError
from service.feedback.counting import COUNTED, DUPLICATE
from service.feedback.events import Event, FeedbackAnswer

logger = logging.getLogger("bidlight")

# What is read and counted at once: each takes a fraction of a millisecond.
SLICE_EVENTS, SLICE_BYTES = 256, 65_536
# How long events wait for bids that wait, or for another process, before they are refused.
PATIENCE_SECONDS, PAUSE_SECONDS = 0.25, 0.002

Events = Sequence[Event | None]


class FeedbackShed(Overloaded):
    """There is no time for events now. Those that are sent again later count once."""

    reason = "feedback"


@dataclass(slots=True, eq=False)
class _Caller:
    """A request: how its events are read, of `size` bytes, and how many of them are counted.

    Nothing of it has been done `since` a monotonic().
    """

    read: Callable[[], Events]
    size: int
    answer: asyncio.Future[FeedbackAnswer]
    since: float
    events: Events | None = None
    counted: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class _Share(NamedTuple):
    """The events of one caller in a slice."""

    caller: _Caller
    events: Events


class EventQueue:
    """First come, first served. `count` takes events, and returns the outcome of each [n].

    Events of many requests are counted together, since counting costs as much for one as for dozens. A long
    list is counted in slices. Between two of them the loop goes on: bids are answered. While something
    `is_behind`, or `count` raises BlockingIOError, events wait, and are refused if that goes on. `on_work` is
    called after each slice.
    """

    def __init__(
        self,
        count: Callable[[Events], Sequence[str]],
        is_behind: Callable[[], bool] = lambda: False,
        on_work: Callable[[], object] = lambda: None,
    ) -> None:
        self._count_events = count
        self._is_behind, self._on_work = is_behind, on_work
        self._waiting: deque[_Caller] = deque()
        self._is_scheduled = False

    async def count(self, read: Callable[[], Events], size: int) -> FeedbackAnswer:
        """Count the events that `read` returns from `size` bytes. Raises what it raises, and FeedbackShed.

        Some of the events may be counted even so. None among them is an event that is none.
        """
        loop = asyncio.get_running_loop()
        caller = _Caller(read, size, loop.create_future(), monotonic())
        self._waiting.append(caller)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._flush)
        return await caller.answer

    def _flush(self) -> None:
        """Count a slice, if nothing else is to be done."""
        is_blocked = self._is_behind() or not self._count_slice()
        if is_blocked:
            self._refuse_those_who_waited()
        else:
            self._on_work()
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            loop = asyncio.get_running_loop()
            if is_blocked:
                loop.call_later(PAUSE_SECONDS, self._flush)
            else:
                loop.call_soon(self._flush)

    def _count_slice(self) -> bool:
        """Whether another process let this one count."""
        shares = self._take()
        try:
            outcomes = self._count_events([event for share in shares for event in share.events])
        except BlockingIOError:
            self._put_back(shares)
            return False
        except Exception:  # whatever it is, others go on
            logger.exception("%d requests with feedback failed", len(shares))
            for share in shares:
                _fail(share.caller, ServiceError("the service failed on these events; it has logged why"))
            return True
        start = 0
        for caller, events in shares:
            stop = start + len(events)
            caller.counted += len(events)
            caller.since = monotonic()
            caller.outcomes.update(outcomes[start:stop])
            start = stop
        self._put_back(shares)
        return True

    def _take(self) -> list[_Share]:
        """The next events, without callers that have left or whose events cannot be read."""
        shares: list[_Share] = []
        room, unread = SLICE_EVENTS, SLICE_BYTES
        while self._waiting and room > 0 and unread > 0:
            caller = self._waiting.popleft()
            if caller.answer.done():
                continue
            if caller.events is None:
                unread -= caller.size
                try:
                    caller.events = caller.read()
                except Exception as error:
                    _fail(caller, error)
                    continue
            some = caller.events[caller.counted : caller.counted + room]
            room -= len(some)
            shares.append(_Share(caller, some))
        return shares

    def _put_back(self, shares: Sequence[_Share]) -> None:
        """Answer callers whose events are counted; the others are first again."""
        for caller, _ in reversed(shares):
            assert caller.events is not None
            if caller.counted < len(caller.events):
                self._waiting.appendleft(caller)
            elif not caller.answer.done():
                caller.answer.set_result(_answer(caller.outcomes))

    def _refuse_those_who_waited(self) -> None:
        now = monotonic()
        while self._waiting and now - self._waiting[0].since > PATIENCE_SECONDS:
            _fail(
                self._waiting.popleft(),
                FeedbackShed("events must wait for bids; send all of them again soon, they count once"),
            )


def _fail(caller: _Caller, error: Exception) -> None:
    if not caller.answer.done():
        caller.answer.set_exception(error)


def _answer(outcomes: Counter[str]) -> FeedbackAnswer:
    refused = {name: number for name, number in outcomes.items() if name not in (COUNTED, DUPLICATE)}
    return FeedbackAnswer(outcomes[COUNTED], outcomes[DUPLICATE], refused)
