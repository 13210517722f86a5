"""Work of shadows waits until nobody else does, is bounded, and leaves most of the time to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.shadow import queue as queue_module
from service.shadow.queue import (
    FEWEST_WAITING,
    LONGEST_REST_SECONDS,
    MAX_WAITING,
    SLICE_SECONDS,
    ShadowQueue,
    rest_after,
)
from service.shadow.spare import LEAST_SHARE, MOST_SHARE, SpareTime

MAX_BYTES = 1_000


class Work:
    """A job of some parts; with a `kind` it takes in others of it."""

    def __init__(self, size: int = 1, parts: int = 1, kind: str = "") -> None:
        self.size, self.parts, self.kind = size, parts, kind
        self.requests = 1
        self.has_begun = False
        self.dropped: str | None = None

    def join(self, other: Work) -> bool:
        if not self.kind or other.kind != self.kind:
            return False
        self.requests += other.requests
        self.size += other.size
        return True

    def step(self) -> bool:
        assert self.parts > 0
        assert self.dropped is None
        self.has_begun = True
        self.parts -= 1
        return self.parts == 0

    def drop(self, reason: str) -> None:
        assert self.dropped is None
        self.dropped = reason


class Told(SpareTime):
    """Finds the share that it is told."""

    told = MOST_SHARE

    def measure(self) -> float:
        return self.told


class Loop:
    """Says whether others have something to do, and how much time there is."""

    def __init__(self) -> None:
        self.is_busy = False
        self.asked = self.worked = 0
        self.spare = Told()
        self.queue = ShadowQueue(self._look, self._note, MAX_BYTES, self.spare)

    def _look(self) -> bool:
        self.asked += 1
        return self.is_busy

    def _note(self) -> None:
        self.worked += 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not condition():
            await asyncio.sleep(0.001)


def run(main: Callable[[Loop], Coroutine[Any, Any, None]]) -> None:
    async def started() -> None:
        await main(Loop())

    asyncio.run(started())


def test_nothing_is_done_while_others_have_something_to_do() -> None:
    async def main(loop: Loop) -> None:
        loop.is_busy = True
        jobs = [Work(parts=3), Work()]
        for job in jobs:
            loop.queue.add(job)
        await until(lambda: loop.asked > 3)
        assert ([job.parts for job in jobs], loop.worked, len(loop.queue)) == ([3, 1], 0, 2)
        loop.is_busy = False
        await until(lambda: not len(loop.queue))
        assert [job.parts for job in jobs] == [0, 0]
        assert loop.worked > 0
        assert loop.queue.held_bytes == 0

    run(main)


def test_the_loop_looks_at_its_sockets_before_each_slice() -> None:
    async def main(loop: Loop) -> None:
        seen: list[str] = []
        job = Work()
        job.step = lambda: bool(seen.append("worked")) or True  # type: ignore[method-assign]
        asyncio.get_running_loop().call_soon(lambda: seen.append("first"))
        loop.queue.add(job)
        asyncio.get_running_loop().call_soon(lambda: seen.append("next"))
        await until(lambda: not len(loop.queue))
        assert seen == ["first", "next", "worked"]

    run(main)


def test_it_rests_after_a_slice_also_where_nothing_waited_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: Loop) -> None:
        first, second = Work(), Work()
        monkeypatch.setattr(queue_module, "rest_after", lambda *_: 1e6)
        loop.queue.add(first)
        await until(lambda: not len(loop.queue))
        loop.queue.add(second)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (first.parts, second.parts, loop.worked) == (0, 1, 1)

    run(main)


def test_what_has_no_room_is_dropped_at_once() -> None:
    async def main(loop: Loop) -> None:
        loop.is_busy = True
        loop.queue.measure()
        large, larger = Work(MAX_BYTES - MAX_WAITING), Work(MAX_BYTES)
        loop.queue.add(large)
        loop.queue.add(larger)
        assert (large.dropped, larger.dropped) == (None, "full")
        small = [Work() for _ in range(MAX_WAITING)]
        for job in small:
            loop.queue.add(job)
        assert [job.dropped for job in small] == [None] * (MAX_WAITING - 1) + ["full"]
        assert loop.queue.held_bytes < MAX_BYTES
        loop.queue.drop_all()
        assert {job.dropped for job in (large, *small[:-1])} == {"gone"}
        assert (len(loop.queue), loop.queue.held_bytes) == (0, 0)
        loop.is_busy = False
        after = Work()
        loop.queue.add(after)
        await until(lambda: after.parts == 0)

    run(main)


def test_what_can_be_done_together_is() -> None:
    async def main(loop: Loop) -> None:
        loop.is_busy = True
        one, other = Work(kind="one"), Work(kind="other")
        for job in (one, other, *(Work(kind=kind) for kind in ("one", "other", "one"))):
            loop.queue.add(job)
        assert (one.requests, other.requests, len(loop.queue), loop.queue.held_bytes) == (3, 2, 5, 5)
        loop.is_busy = False
        await until(lambda: not len(loop.queue))
        assert (one.parts, other.parts, loop.queue.held_bytes) == (0, 0, 0)

    run(main)


def test_what_waits_for_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 0.01)

    async def main(loop: Loop) -> None:
        loop.is_busy = True
        job = Work()
        loop.queue.add(job)
        await until(lambda: job.dropped is not None)
        assert (job.dropped, len(loop.queue), loop.worked) == ("late", 0, 0)

    run(main)


def test_what_has_begun_is_done_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(queue_module, "ENOUGH_SECONDS", 1e-9)  # one part a slice

    async def main(loop: Loop) -> None:
        begun, other = Work(parts=3), Work()
        begun.has_begun = True
        loop.queue.add(begun)
        loop.queue.add(other)
        await until(lambda: not len(loop.queue))
        assert (begun.parts, begun.dropped, other.dropped) == (0, None, "late")

    run(main)


def test_where_less_time_is_to_spare_less_waits() -> None:
    async def main(loop: Loop) -> None:
        loop.is_busy = True
        assert loop.queue.refusal is None
        for told, room, reason in (
            (LEAST_SHARE, FEWEST_WAITING, "busy"),
            (MOST_SHARE / 2, MAX_WAITING // 2, "busy"),
            (MOST_SHARE, MAX_WAITING, "full"),
        ):
            loop.spare.told = told
            loop.queue.add(Work())
            asked = loop.asked
            await until(lambda: loop.asked > asked + 1)  # noqa: B023
            while loop.queue.refusal is None:
                loop.queue.add(Work())
            assert (len(loop.queue), loop.queue.refusal) == (room, reason)
            late = Work()  # of a request that was read while there was room
            loop.queue.add(late)
            assert (len(loop.queue), late.dropped) == (room, reason)

    run(main)


def test_slow_work_gets_a_small_part_of_the_time() -> None:
    for seconds, given, taken in (
        (SLICE_SECONDS, MOST_SHARE, MOST_SHARE),
        (SLICE_SECONDS, 0.1, 0.1),
        (2 * SLICE_SECONDS, MOST_SHARE, LEAST_SHARE),
    ):
        assert seconds / (seconds + rest_after(seconds, given)) == pytest.approx(taken)
    assert rest_after(60.0, MOST_SHARE) == LONGEST_REST_SECONDS
