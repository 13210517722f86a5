"""Work that waits until nobody else does: a slice in an iteration of the event loop, and rest after it.

It knows neither shadows nor requests. One thread answers bids and does this work; so a bid that arrives
within a slice waits for its end. Slices are short, and those that are not are few: see `rest_after`. A thread
that has little time to spare does less of it, and lets less wait: see service.shadow.spare.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import monotonic, thread_time
from typing import Any, Protocol

from service.shadow.meter import BUSY, FULL, GONE, LATE
from service.shadow.spare import LEAST_SHARE, MOST_SHARE, SpareTime

# What waits at most, over all shadows of a process; each holds a body and an answer beside it. Where there is
# less time for them, as many fewer wait, but for so many.
MAX_WAITING, FEWEST_WAITING = 256, 8
# How long a job may wait until it begins. One that has begun goes on: with hardly any time to spare a slow
# one would never be done otherwise.
PATIENCE_SECONDS = 5.0
# How often it is looked whether nobody waits.
PAUSE_SECONDS = 0.002
# How long nothing is done once nothing is left: what comes meanwhile is done together, for much less.
GATHER_SECONDS = 0.05
# A job takes in others for so long, so that it does not make them late.
TOGETHER_SECONDS = 0.5
# Of the jobs that wait so many are asked, the last ones: one for each of some shadows.
ASKED = 4
# A slice that has taken so long begins nothing more.
ENOUGH_SECONDS = 0.0005
# Slices of this length may take the share of the time that is to spare, longer ones the least: few bids
# meet one.
SLICE_SECONDS = 0.002
LONGEST_REST_SECONDS = 10.0


class Job(Protocol):
    """Something to be done for so many requests, which hold so many bytes."""

    requests: int
    size: int
    has_begun: bool

    def join(self, other: Any, /) -> bool:
        """Do that too what another job is to do, if that is possible; it counts as a part of this one."""

    def step(self) -> bool:
        """Do a part of it; whether nothing is left. It must not raise."""

    def drop(self, reason: str) -> object:
        """It is not done."""


class ShadowQueue:
    """First come, first served, and never more than MAX_WAITING requests or `max_bytes`: others are dropped.

    Jobs that can be done together are.

    A slice runs if `is_busy` says that nothing else is to be done, after the loop has looked at its sockets.
    `on_work` is called after it.
    """

    def __init__(
        self,
        is_busy: Callable[[], bool],
        on_work: Callable[[], object],
        max_bytes: int,
        spare: SpareTime | None = None,
    ) -> None:
        self._is_busy, self._on_work = is_busy, on_work
        self._spare = spare or SpareTime()
        self._room = FEWEST_WAITING
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[Job, float]] = deque()
        self._requests = self._bytes = 0
        self._is_scheduled = False
        self._rests_until = 0.0  # in the loop's time, also while nothing waits

    def __len__(self) -> int:
        """How many requests wait."""
        return self._requests

    @property
    def held_bytes(self) -> int:
        """Bytes of the requests that wait."""
        return self._bytes

    @property
    def refusal(self) -> str | None:
        """Why one more request should not wait; None: it may. Asked before it costs anything."""
        if self._requests < self._room:
            return None
        return FULL if self._room == MAX_WAITING else BUSY

    def measure(self) -> float:
        """Find the share of the time that it may take now; by that also how many may wait."""
        share = self._spare.measure()
        self._room = max(int(MAX_WAITING * share / MOST_SHARE), FEWEST_WAITING)
        return share

    def add(self, job: Job) -> None:
        """Let a job wait, or drop it where there is no room."""
        reason = FULL if self._bytes + job.size > self._max_bytes else self.refusal
        if reason is not None:
            job.drop(reason)
            return
        self._requests += job.requests
        self._bytes += job.size
        now = monotonic()
        for other, since in islice(reversed(self._waiting), ASKED):
            if now - since < TOGETHER_SECONDS and other.join(job):
                break
        else:
            self._waiting.append((job, now))
        if not self._is_scheduled:
            self._schedule()

    def drop_all(self) -> None:
        """Drop what waits: it is of no use any more."""
        self.drop_those(lambda _: True)

    def drop_those(self, are_gone: Callable[[Any], bool]) -> None:
        """Drop the jobs that are of no use any more; others keep their places."""
        waiting, self._waiting = self._waiting, deque()
        for job, since in waiting:
            if are_gone(job):
                self._forget(job)
                job.drop(GONE)
            else:
                self._waiting.append((job, since))

    def _schedule(self) -> None:
        self._is_scheduled = True
        loop = asyncio.get_running_loop()
        rest = self._rests_until - loop.time()
        if rest > 0.0:
            loop.call_later(rest, self._look)
        else:
            loop.call_soon(self._look)

    def _look(self) -> None:
        """Let the loop look at its sockets first."""
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Do a slice, if nobody waits."""
        rest = PAUSE_SECONDS
        self._drop_late()
        share = self.measure()
        if self._waiting and not self._is_busy():
            rest = rest_after(self._work(), share)
            if not self._waiting:
                rest = max(rest, GATHER_SECONDS)
        self._rests_until = asyncio.get_running_loop().time() + rest
        self._is_scheduled = False
        if self._waiting:
            self._schedule()

    def _work(self) -> float:
        """Do a slice; how long it took, in seconds of this thread: those of other processes say nothing."""
        started, taken = thread_time(), 0.0
        while self._waiting and taken < ENOUGH_SECONDS:
            if self._waiting[0][0].step():
                self._take()
            taken = thread_time() - started
        self._spare.spend(taken)
        self._on_work()
        return taken

    def _drop_late(self) -> None:
        """Drop those that have waited for too long, but for one that has begun."""
        oldest = monotonic() - PATIENCE_SECONDS
        begun = self._waiting.popleft() if self._waiting and self._waiting[0][0].has_begun else None
        while self._waiting and self._waiting[0][1] < oldest:
            self._take().drop(LATE)
        if begun is not None:
            self._waiting.appendleft(begun)

    def _take(self) -> Job:
        job, _ = self._waiting.popleft()
        self._forget(job)
        return job

    def _forget(self, job: Job) -> None:
        """It waits no more."""
        self._requests -= job.requests
        self._bytes -= job.size


def rest_after(seconds: float, share: float) -> float:
    """How long nothing is done after a slice that took so long, of work that may take a share of the time."""
    if seconds > SLICE_SECONDS:
        share = LEAST_SHARE
    return min(seconds * (1.0 / share - 1.0), LONGEST_REST_SECONDS)
