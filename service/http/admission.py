"""Which of the requests that have arrived are read, when, and which are refused unread: overload sheds load.

It knows neither HTTP nor what a request holds, only how long its body is, and how long it has waited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from service.http.intake import Arrival, Intake
from service.http.ladder import Ladder

# A request takes as much time as so many bytes more than its body has.
BYTES_A_REQUEST = 1000
# Time for a byte before any is measured, and over how much time it is measured.
SECONDS_A_BYTE, MEASURED_SECONDS = 20e-9, 0.1
# No turn takes longer: if one seems to, the process stood still, which says nothing about its speed.
LONGEST_TURN_SECONDS = 0.1
# Waits that are kept until they are published.
KEPT_WAITS = 65_536
# What is received this much later is received in another turn.
READING_SECONDS = 0.01
# Parts of the time that a request may take until its batch: those for waiting unread, and for all the work
# that is under way at any moment. From when a request is read it takes about two such slices.
WAIT_SHARE, SLICE_SHARE = 0.75, 0.05
# A slice is no shorter than the work of so many bytes: batches of a few small requests are not worth it.
LEAST_WORK = 65_536
# Clients that state shorter times shorten it for all, but to no less than this part of the setting.
LEAST_SHARE = 0.1
# How many requests it takes until the times that clients state are heeded.
HEARD_REQUESTS = 64
# How much refusals may take of the time of answers, while there are answers to give.
REFUSAL_SHARE = 0.05
# The time to write a refusal, before any is measured. To read the next request of its client takes as long,
# and in addition this part of the time that its answer would take.
REFUSAL_SECONDS, READING_SHARE = 5e-6, 1 / 32
# What an answer without the model takes beside what the ladder sees of it, most in the kernel, as a part of
# the time that a scored answer would take.
UNSEEN_SHARE = 0.5


class Request(Protocol):
    """A request that has arrived as a whole, and is not read yet."""

    size: int
    """Bytes of its body."""
    arrived: float
    """Since when it waits, a perf_counter()."""

    def done(self) -> bool:
        """Whether its client has left."""

    def begin(self) -> object:
        """Read it, and answer it."""

    def begin_unscored(self) -> object:
        """Read it, and answer it without the model."""

    def give_up(self) -> object:
        """Let go of its body: it is refused soon."""

    def refuse(self) -> object:
        """Answer that it was not read."""


class Admission:
    """Lets requests begin as they come while little work is under way; others wait here, unread.

    They begin first come, first served, as long as there is time for all that wait. If there are more, the
    newest begins first: its client still waits. One that has waited for too long is answered without the
    model, if there is a `ladder` that has time. Else it is given up: its body is dropped at once, and it is
    refused when refusals have taken no more than REFUSAL_SHARE of the time of answers. A client that is
    refused sends its next request, and to read that takes time for answers; so the rate of answers does not
    depend on how much is asked.

    `has_worked` is set when the loop has done anything but read from its sockets.

    `max_queue_seconds` is how long a request may wait for its batch. Time in its socket counts (`arrived`).
    """

    def __init__(
        self,
        intake: Intake,
        max_queue_seconds: float,
        clock: Callable[[], float] = perf_counter,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self.has_worked = True
        self._intake = intake
        self._ladder = ladder
        self._clock = clock
        self._call_soon = call_soon
        self._longest = self._limit = max_queue_seconds
        self._waiting: deque[Request] = deque()
        self._held = Arrival(intake, self._yield_room)
        self._owed: deque[Request] = deque()
        self._waits: deque[float] = deque(maxlen=KEPT_WAITS)
        # In bytes, BYTES_A_REQUEST included: what waits, what is under way or has just ended, what has just
        # ended, and what was answered since the last turn.
        self._waiting_work = self._open_work = self._ended_work = self._finished_work = 0
        self._measured_seconds, self._measured_work = MEASURED_SECONDS, MEASURED_SECONDS / SECONDS_A_BYTE
        self._refusal_seconds = REFUSAL_SECONDS
        self._credit = 0.0
        self._has_turn = self._was_behind = False
        self._turned_at = self._arrived = self._read_at = clock()
        self._measure(0.0)

    @property
    def waiting(self) -> int:
        """How many requests wait, or wait for their refusal."""
        return len(self._waiting) + len(self._owed)

    @property
    def is_behind(self) -> bool:
        """Whether requests wait."""
        return bool(self._waiting)

    @property
    def open_work(self) -> int:
        """How much is under way, in bytes and BYTES_A_REQUEST for each request."""
        return self._open_work - self._ended_work

    def oldest_wait(self) -> float:
        """For how many seconds the oldest of these has waited."""
        oldest = self._owed or self._waiting
        return self._clock() - oldest[0].arrived if oldest else 0.0

    def take_waits(self) -> list[float]:
        """For how many seconds requests waited that began since the last call."""
        waits = [*self._waits]
        self._waits.clear()
        return waits

    @property
    def is_open(self) -> bool:
        """Whether a request may begin at once."""
        return self._open_work < self._most_work and not self._waiting

    def arrived(self) -> float:
        """Since when the bytes that were just received have probably been there, a perf_counter().

        The loop reads what its sockets hold, then works, then reads again, without a pause as long as there
        is work. So what it reads has come since it read before: on average, in the middle of that time.
        """
        now = self._clock()
        if self.has_worked or now - self._read_at > READING_SECONDS:
            self._settle()
            self._arrived = 0.5 * (self._read_at + now) if self._open_work or self._waiting else now
            self._read_at, self.has_worked = now, False
        return self._arrived

    def wait(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)
        self._waiting_work += request.size + BYTES_A_REQUEST
        self._hold()
        self._schedule_if_due()

    def heed(self, tmax_ms: float | None) -> None:
        """A client says how long it waits, or does not."""
        heard = longest = self._longest
        if tmax_ms is not None:
            heard = min(max(LEAST_SHARE * longest, WAIT_SHARE * 0.001 * tmax_ms), longest)
        self._limit += (heard - self._limit) / HEARD_REQUESTS

    def start(self, size: int) -> int:
        """Work on a request begins, or goes on; returns what `stop` takes."""
        work = size + BYTES_A_REQUEST
        self._open_work += work
        return work

    def stop(self, work: int, *, is_done: bool = True) -> None:
        """It ends, or pauses for something else than the processor."""
        self._ended_work += work
        if is_done:
            self._finished_work += work
        if self._waiting:
            self._schedule_if_due()

    def turn(self) -> None:
        """Give up those that have waited for too long, begin others, and write some of the refusals owed."""
        self._has_turn, self.has_worked = False, True
        now = self._clock()
        self._measure(min(now - self._turned_at, LONGEST_TURN_SECONDS) if self._was_behind else 0.0)
        self._turned_at = now
        self._settle()
        waiting, longest_wait = self._waiting, self._limit * WAIT_SHARE
        while waiting and now - waiting[0].arrived > longest_wait:
            if self._ladder is not None and self._ladder.has_time():
                self._answer_oldest()
            else:
                self._give_up_oldest()
        self._hold()
        while waiting and self._open_work < self._most_work:
            is_too_much = self._waiting_work * self._seconds_a_byte > longest_wait
            request = waiting.pop() if is_too_much else waiting.popleft()
            self._waiting_work -= request.size + BYTES_A_REQUEST
            self._hold()  # its bytes are accounted for elsewhere from now on
            if not request.done():
                self._waits.append(now - request.arrived)
                request.begin()
        self._was_behind = bool(waiting)
        self._refuse_some()

    def _settle(self) -> None:
        """Make room for other work where some has ended; not earlier, or a turn could begin any number."""
        self._open_work -= self._ended_work
        self._ended_work = 0

    def _measure(self, elapsed: float) -> None:
        """How long a byte takes, from the time in which requests always waited."""
        finished, self._finished_work = self._finished_work, 0
        if elapsed:
            self._measured_seconds += elapsed
            self._measured_work += finished
            if self._measured_seconds > 2 * MEASURED_SECONDS:
                self._measured_seconds /= 2
                self._measured_work /= 2
        self._seconds_a_byte = self._measured_seconds / max(self._measured_work, 1.0)
        self._most_work = max(LEAST_WORK, self._limit * SLICE_SHARE / self._seconds_a_byte)
        earned = REFUSAL_SHARE * finished * self._seconds_a_byte
        self._credit = min(self._credit + earned, self._limit * SLICE_SHARE)

    @property
    def _waiting_bytes(self) -> int:
        return self._waiting_work - BYTES_A_REQUEST * len(self._waiting)

    def _hold(self) -> None:
        """Account for the bytes that wait."""
        self._held.hold(self._waiting_bytes)

    def _yield_room(self) -> None:
        """Give up the oldest request, and others until there is room for those that are left."""
        room = self._intake.max_bytes - self._intake.held_bytes
        self._give_up_oldest()
        while self._waiting and self._waiting_bytes > room:
            self._give_up_oldest()
        self._hold()
        self._schedule()

    def _take_oldest(self) -> Request:
        request = self._waiting.popleft()
        self._waiting_work -= request.size + BYTES_A_REQUEST
        return request

    def _answer_oldest(self) -> None:
        """Let it be answered without the model."""
        request = self._take_oldest()
        self._hold()
        if not request.done():
            request.begin_unscored()
            assert self._ladder is not None
            self._ladder.spend(UNSEEN_SHARE * (request.size + BYTES_A_REQUEST) * self._seconds_a_byte)

    def _give_up_oldest(self) -> None:
        request = self._take_oldest()
        request.give_up()
        self._owed.append(request)

    def _refuse_some(self) -> None:
        """Refuse those that were given up, the first ones first."""
        if not (self._waiting or self._open_work):  # there is nothing better to do
            self._credit = max(self._credit, REFUSAL_SHARE * SLICE_SHARE * self._limit)
        refused, started = 0, self._clock()
        while self._owed and self._credit > 0.0:
            request = self._owed.popleft()
            if not request.done():
                request.refuse()
                refused += 1
                reading = self._refusal_seconds + READING_SHARE * request.size * self._seconds_a_byte
                self._credit -= self._refusal_seconds + reading
        if refused:
            took = min(self._clock() - started, LONGEST_TURN_SECONDS) / refused
            self._refusal_seconds += (took - self._refusal_seconds) * min(refused / HEARD_REQUESTS, 1.0)
        if not self._owed:
            self._credit = 0.0
        elif not self._waiting:
            self._schedule()

    def _schedule_if_due(self) -> None:
        if self.open_work < self._most_work:
            self._schedule()

    def _schedule(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            (self._call_soon or asyncio.get_running_loop().call_soon)(self.turn)
