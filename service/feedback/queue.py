"""Events that wait to be counted: of all requests together, a slice in an iteration of the event loop.

It knows neither tokens nor HTTP, only that something else may come first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import NamedTuple

from service.errors import Overloaded, ServiceError
from service.feedback.counting import COUNTED, DUPLICATE
from service.feedback.events import Event, FeedbackAnswer

logger = logging.getLogger("bidlight")

# What is read and counted at once: each takes a fraction of a millisecond. A longer body is read at once too.
SLICE_EVENTS, SLICE_BYTES = 256, 65_536
# So many slices may wait for a store that machines share: when it answers, bids wait for that many.
MAX_UNDER_WAY = 4
# How long events wait for bids that wait, or for another process, before they are refused.
PATIENCE_SECONDS, PAUSE_SECONDS = 0.25, 0.002

Events = Sequence[Event | None]


class FeedbackShed(Overloaded):
    """There is no time for events now. Those that are sent again later count once."""

    reason = "feedback"


@dataclass(slots=True, eq=False)
class _Caller:
    """A request: how its events are read, of `size` bytes, and how many of them are taken, and counted.

    Nothing of it has been done `since` a monotonic().
    """

    read: Callable[[], Events]
    size: int
    answer: asyncio.Future[FeedbackAnswer]
    since: float
    events: Events | None = None
    taken: int = 0
    counted: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class _Share(NamedTuple):
    """The events of one caller in a slice."""

    caller: _Caller
    events: Events


class EventQueue:
    """First come, first served. `count` takes events, and returns the outcome of each [n], or will do so.

    Events of many requests are counted together, since counting costs as much for one as for dozens. A long
    list is counted in slices. Between two of them the loop goes on: bids are answered. While something
    `is_behind`, or `count` raises BlockingIOError, events wait, and are refused if that goes on. `on_work` is
    called after each slice.
    """

    def __init__(
        self,
        count: Callable[[Events], Sequence[str] | asyncio.Future[Sequence[str]]],
        is_behind: Callable[[], bool] = lambda: False,
        on_work: Callable[[], object] = lambda: None,
    ) -> None:
        self._count_events = count
        self._is_behind, self._on_work = is_behind, on_work
        self._waiting: deque[_Caller] = deque()
        self._is_scheduled = False
        self._under_way = 0

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
        try:
            return await caller.answer
        finally:
            # An error holds this frame, and the caller holds the error: both would wait for the collector.
            del caller, read

    def _flush(self) -> None:
        """Count a slice, if nothing else is to be done."""
        is_blocked = self._is_behind() or self._under_way >= MAX_UNDER_WAY or not self._count_slice()
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
        except Exception as error:  # whatever it is, others go on
            _give_up(shares, error)
            return True
        for caller, events in shares:
            caller.taken += len(events)
            caller.since = monotonic()
        self._put_back(shares)
        if isinstance(outcomes, asyncio.Future):
            self._under_way += 1
            outcomes.add_done_callback(partial(self._settle_later, shares))
        else:
            _settle(shares, outcomes)
        return True

    def _settle_later(self, shares: Sequence[_Share], outcomes: asyncio.Future[Sequence[str]]) -> None:
        self._under_way -= 1
        error = outcomes.exception()
        if error is None:
            _settle(shares, outcomes.result())
        else:
            _give_up(shares, error)

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
            some = caller.events[caller.taken : caller.taken + room]
            room -= len(some)
            shares.append(_Share(caller, some))
        return shares

    def _put_back(self, shares: Sequence[_Share]) -> None:
        """Callers with events that are not taken are first again."""
        for caller, _ in reversed(shares):
            assert caller.events is not None
            if caller.taken < len(caller.events):
                self._waiting.appendleft(caller)

    def _refuse_those_who_waited(self) -> None:
        now = monotonic()
        while self._waiting and now - self._waiting[0].since > PATIENCE_SECONDS:
            _fail(
                self._waiting.popleft(),
                FeedbackShed("events must wait for bids; send all of them again soon, they count once"),
            )


def _settle(shares: Sequence[_Share], outcomes: Sequence[str]) -> None:
    """Note outcomes [n] of the events of shares, and answer callers all of whose events have theirs."""
    start = 0
    for caller, events in shares:
        stop = start + len(events)
        caller.counted += len(events)
        caller.outcomes.update(outcomes[start:stop])
        start = stop
        assert caller.events is not None
        if caller.counted == len(caller.events) and not caller.answer.done():
            caller.answer.set_result(_answer(caller.outcomes))


def _give_up(shares: Sequence[_Share], error: BaseException) -> None:
    logger.error("%d requests with feedback failed", len(shares), exc_info=error)
    for share in shares:
        _fail(share.caller, ServiceError("the service failed on these events; it has logged why"))


def _fail(caller: _Caller, error: Exception) -> None:
    if not caller.answer.done():
        if isinstance(error, ServiceError):
            # Nobody reads where it comes from, and these frames hold the caller.
            error = error.with_traceback(None)
            error.__context__ = None
        caller.answer.set_exception(error)


def _answer(outcomes: Counter[str]) -> FeedbackAnswer:
    refused = {name: number for name, number in outcomes.items() if name not in (COUNTED, DUPLICATE)}
    return FeedbackAnswer(outcomes[COUNTED], outcomes[DUPLICATE], refused)
