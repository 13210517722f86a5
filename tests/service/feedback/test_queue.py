"""Events of all requests are counted together, in slices between other work, which goes first."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidField, ServiceError
from service.feedback.events import CLICK, Event, FeedbackAnswer
from service.feedback.queue import (
    PATIENCE_SECONDS,
    SLICE_BYTES,
    SLICE_EVENTS,
    EventQueue,
    Events,
    FeedbackShed,
)


class Counted:
    """Counts events by their tokens: the first of each is new, and some are none."""

    def __init__(self, is_behind: Callable[[], bool] = lambda: False) -> None:
        self.seen: set[str] = set()
        self.slices: list[int] = []
        self.turns = self.blocked = 0
        self.queue = EventQueue(self.count, is_behind, self._turn)

    def _turn(self) -> None:
        self.turns += 1

    def count(self, events: Events) -> Sequence[str]:
        if self.blocked:
            self.blocked -= 1
            raise BlockingIOError
        self.slices.append(len(events))
        return [*map(self._outcome, events)]

    def _outcome(self, event: Event | None) -> str:
        if event is None:
            return "invalid"
        is_new = event.token not in self.seen
        self.seen.add(event.token)
        return "counted" if is_new else "duplicate"

    async def send(self, tokens: Sequence[str | None], size: int = 10) -> FeedbackAnswer:
        events = [None if token is None else Event(token, CLICK) for token in tokens]
        return await self.queue.count(lambda: events, size)


async def watched(counted: Counted, work: Callable[[], Events]) -> list[int]:
    """The turns before each iteration of the loop while `work` is counted."""
    turns: list[int] = []

    async def watch() -> None:
        while True:
            turns.append(counted.turns)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await counted.queue.count(work, 10)
    watching.cancel()
    return turns


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([None, *"abcdefgh"]), max_size=700), min_size=1, max_size=8))
def test_each_request_gets_the_outcomes_of_its_own_events(requests: list[list[str | None]]) -> None:
    counted = Counted()

    async def all_at_once() -> list[FeedbackAnswer]:
        return await asyncio.gather(*map(counted.send, requests))

    seen: set[str | None] = set()
    for tokens, answer in zip(requests, asyncio.run(all_at_once()), strict=True):
        new = {*tokens} - seen - {None}
        seen |= new
        none = Counter(tokens)[None]
        assert answer.counted == len(new)
        assert answer.duplicates == len(tokens) - len(new) - none
        assert answer.refused == ({"invalid": none} if none else {})
    assert max(counted.slices) <= SLICE_EVENTS
    assert sum(counted.slices) == sum(map(len, requests))


def test_a_long_list_is_counted_in_slices_one_in_an_iteration_of_the_loop() -> None:
    counted = Counted()
    events = [Event(str(number), CLICK) for number in range(5 * SLICE_EVENTS + 1)]
    turns = asyncio.run(watched(counted, lambda: events))
    assert counted.slices == [SLICE_EVENTS] * 5 + [1]
    assert max(np.diff(turns)) == 1


def test_events_of_many_requests_are_counted_together() -> None:
    counted = Counted()

    async def many() -> None:
        await asyncio.gather(*[counted.send([str(number)]) for number in range(100)])

    asyncio.run(many())
    assert counted.slices == [100]


def test_so_many_bytes_are_read_at_once() -> None:
    counted = Counted()

    async def many() -> None:
        await asyncio.gather(*[counted.send([str(number)], SLICE_BYTES // 2) for number in range(7)])

    asyncio.run(many())
    assert counted.slices == [2, 2, 2, 1]


def test_what_cannot_be_read_is_refused_alone() -> None:
    counted = Counted()

    def refuse() -> Events:
        raise InvalidField("no events")

    async def both() -> FeedbackAnswer:
        refused = asyncio.create_task(counted.queue.count(refuse, 10))
        answer = await counted.send(["a"])
        with pytest.raises(InvalidField):
            await refused
        return answer

    assert asyncio.run(both()) == FeedbackAnswer(1, 0, {})


def test_a_failure_reaches_its_requests_and_the_next_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails = [True]

    def count(events: Events) -> Sequence[str]:
        if fails:
            fails.pop()
            raise RuntimeError("of the test")
        return ["counted"] * len(events)

    async def scenario() -> None:
        queue = EventQueue(count)
        with pytest.raises(ServiceError, match="it has logged why"):
            await queue.count(lambda: [None], 1)
        assert (await queue.count(lambda: [None], 1)).counted == 1

    asyncio.run(scenario())
    assert "of the test" in caplog.text


def test_a_request_that_is_given_up_keeps_nobody_waiting() -> None:
    counted = Counted()

    async def scenario() -> FeedbackAnswer:
        gone = asyncio.create_task(counted.send([str(number) for number in range(2000)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answer = asyncio.create_task(counted.send(["a"]))
        gone.cancel()
        return await answer

    assert asyncio.run(scenario()).counted == 1
    assert sum(counted.slices) < 2000


def test_events_wait_for_other_work_and_for_another_process() -> None:
    until = time.monotonic() + PATIENCE_SECONDS / 5
    counted = Counted(is_behind=lambda: time.monotonic() < until)
    counted.blocked = 3
    assert asyncio.run(counted.send(["a", "b"])).counted == 2
    assert time.monotonic() >= until
    assert (counted.blocked, counted.turns) == (0, 1)


@pytest.mark.parametrize("reason", ["other work", "another process"])
def test_events_are_refused_if_that_goes_on(reason: str) -> None:
    goes_on = [True]
    counted = Counted(is_behind=lambda: bool(goes_on) and reason == "other work")
    counted.blocked = 0 if reason == "other work" else 10**9

    async def scenario() -> None:
        started = time.monotonic()
        with pytest.raises(FeedbackShed) as shed:
            await asyncio.gather(counted.send(["a"]), counted.send(["b"]))
        assert time.monotonic() - started >= PATIENCE_SECONDS
        assert (shed.value.status, shed.value.code) == (429, "overloaded")
        goes_on.clear()
        counted.blocked = 0
        assert (await counted.send(["a", "b"])).counted == 2

    asyncio.run(scenario())
