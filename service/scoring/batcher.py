"""Micro-batching of opaque rows: rows that arrive in one event-loop iteration run together, inline.

It knows nothing of CTR, of ONNX Runtime or of HTTP. There is no timer and no thread: a lone caller on an idle
loop never waits, and under load a batch holds whatever the loop read from its sockets in one iteration.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlinePassed, InferenceFailed, Overloaded, RowFailed

logger = logging.getLogger("bidlight")

Results = NDArray[Any]


class Rows(Protocol):
    """Rows of one caller: an array [n, ...], or anything else that has a length and slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Self: ...


class BatchReport(NamedTuple):
    """One batch about to run: its rows, its callers, and how long they waited, summed."""

    rows: int
    callers: int
    queue_seconds: float


class Outcome(Protocol):
    """Receives a result, synchronously and from within the batch: it must not raise. A future is one."""

    def done(self) -> bool:
        """Whether nobody waits any more; rows that have not run are dropped then."""

    def set_result(self, result: Results, /) -> object:
        """The rows have run: [n], in order."""

    def set_exception(self, exception: BaseException, /) -> object:
        """The rows failed, or will not run."""


class RowsFailed(Exception):
    """Some rows of a batch have no result: `results` [n] of all its rows, and which `failed`, bool [n]."""

    def __init__(self, results: Results, failed: NDArray[np.bool_]) -> None:
        super().__init__(f"{np.count_nonzero(failed)} of {len(failed)} rows have no result")
        self.results = results
        self.failed = failed


@dataclass(slots=True, eq=False)
class _Caller:
    """Queued rows and their caller: `left` of `size` wait, since `waiting_since` (a perf_counter())."""

    rows: Rows
    size: int
    outcome: Outcome
    waiting_since: float
    deadline: float | None
    left: int
    parts: list[Results] | None = None


class _Share(NamedTuple):
    """The rows of one caller in a batch."""

    caller: _Caller
    rows: Rows
    size: int


class Batcher:
    """First come, first served, in batches of whole callers and at most `max_batch_rows` rows.

    The first caller of an event-loop iteration schedules one flush. The flush runs `run` on the rows of all
    callers that came meanwhile. If rows are left it schedules the next flush, so that the loop reads sockets
    in between. A caller with more rows than a batch holds runs in parts. A caller that left (its future was
    cancelled) or whose deadline passed is dropped before its rows cost anything. When `run` raises, each
    caller of its batch gets an error of its own; other batches are not affected. When it raises RowsFailed,
    that holds for the callers of those rows alone.

    The queue has room for `max_queued_rows`, reserved rows included: `reserve` asks for room before the rows
    exist, `submit_reserved` or `release` ends the reservation, and `submit` does both steps.

    `run` takes the rows of a batch's callers and its report, and returns the results of all, [n], in order.
    """

    def __init__(
        self,
        run: Callable[[list[Any], BatchReport], Results],
        *,
        max_batch_rows: int,
        max_queued_rows: int,
    ) -> None:
        self._run = run
        self.max_batch_rows = max_batch_rows
        self.max_queued_rows = max_queued_rows
        self._waiting: deque[_Caller] = deque()
        self._queued_rows = 0
        self._reserved_rows = 0
        self._flush_scheduled = False
        self._taken_at = 0.0  # when the last batch began, a perf_counter()

    @property
    def queued_rows(self) -> int:
        """Rows in the queue, including those of callers that left and were not dropped yet."""
        return self._queued_rows

    @property
    def stuck_seconds(self) -> float:
        """For how long rows have waited while no batch began; 0 if none waits."""
        if not self._waiting:
            return 0.0
        return time.perf_counter() - max(self._taken_at, self._waiting[0].waiting_since)

    @property
    def is_behind(self) -> bool:
        """Whether more rows wait than the next batch takes."""
        return self._queued_rows > self.max_batch_rows

    def has_room(self, rows: int) -> bool:
        """Whether `reserve` would find room."""
        return self._queued_rows + self._reserved_rows + rows <= self.max_queued_rows

    def reserve(self, rows: int) -> None:
        """Reserve room for rows that are submitted later. Raises Overloaded if the queue has too little."""
        total = self._queued_rows + self._reserved_rows + rows
        if total > self.max_queued_rows:
            raise Overloaded(
                f"the queue must hold {self.max_queued_rows} rows at most (got {total}); try again soon"
            )
        self._reserved_rows += rows

    def release(self, rows: int) -> None:
        """Give up a reservation."""
        self._reserved_rows -= rows

    def submit(self, rows: Rows, *, deadline: float | None = None, outcome: Outcome | None = None) -> Any:
        """Reserve room for `rows` and queue them, as `submit_reserved` does. Raises Overloaded."""
        self.reserve(len(rows))
        return self.submit_reserved(rows, deadline, outcome)

    def submit_reserved(
        self, rows: Rows, deadline: float | None = None, outcome: Outcome | None = None
    ) -> Any:
        """Queue `rows` [n, ...]; `outcome`, or else the future returned, gets `run`'s result for them [n].

        `deadline` is a `time.perf_counter()`; a caller that still waits then gets DeadlinePassed.
        """
        size = len(rows)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
        self._waiting.append(_Caller(rows, size, outcome, time.perf_counter(), deadline, size))
        self._reserved_rows -= size
        self._queued_rows += size
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._flush, loop)
        return outcome

    async def drain(self) -> None:
        """Return when the queue is empty."""
        while self._waiting:
            await asyncio.sleep(0)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            batch = self._take_batch()
            if batch:
                self._run_batch(batch)
        finally:
            # One batch a flush: the loop reads sockets before the next one, and late rows join it.
            self._flush_scheduled = bool(self._waiting)
            if self._flush_scheduled:
                loop.call_soon(self._flush, loop)

    def _take_batch(self) -> list[_Share]:
        """The next batch, without callers that left or are past their deadline."""
        batch: list[_Share] = []
        room = self.max_batch_rows
        self._taken_at = now = time.perf_counter()
        while self._waiting and room:
            caller = self._waiting[0]
            left = caller.left
            if caller.outcome.done():
                self._dequeue(caller)
            elif caller.deadline is not None and now > caller.deadline:
                self._dequeue(caller)
                caller.outcome.set_exception(
                    DeadlinePassed("the deadline passed in the queue; allow more time")
                )
            elif left <= room:
                rows = caller.rows if left == caller.size else caller.rows[caller.size - left :]
                batch.append(_Share(caller, rows, left))
                self._dequeue(caller)
                room -= left
            elif not batch:
                done = caller.size - left
                batch.append(_Share(caller, caller.rows[done : done + room], room))
                caller.left -= room
                self._queued_rows -= room
                room = 0
            else:
                break
        return batch

    def _dequeue(self, caller: _Caller) -> None:
        self._waiting.popleft()
        self._queued_rows -= caller.left

    def _run_batch(self, batch: list[_Share]) -> None:
        try:
            total = sum(share.size for share in batch)
            now = time.perf_counter()
            waited = sum(now - share.caller.waiting_since for share in batch)
            report = BatchReport(total, len(batch), waited)
            results = self._run([share.rows for share in batch], report)
            if len(results) != total:
                raise ValueError(f"a run must give one result a row (got {len(results)} for {total} rows)")
        except RowsFailed as error:
            self._deliver_some(batch, error)
            return
        except Exception as error:
            logger.exception("a batch of %d callers failed", len(batch))
            for share in batch:
                # One exception raised in several tasks would collect the traceback of each.
                failure = InferenceFailed("the batch that held these rows failed; the service has logged why")
                failure.__cause__ = error
                self._fail(share.caller, failure)
            return
        start = 0
        for share in batch:
            stop = start + share.size
            self._deliver(share.caller, results[start:stop])
            start = stop

    def _deliver_some(self, batch: list[_Share], error: RowsFailed) -> None:
        start = 0
        for share in batch:
            stop = start + share.size
            if error.failed[start:stop].any():
                self._fail(share.caller, RowFailed("the model has no number for a row of this request"))
            else:
                self._deliver(share.caller, error.results[start:stop])
            start = stop

    def _deliver(self, caller: _Caller, results: Results) -> None:
        if self._waiting and self._waiting[0] is caller:
            if caller.parts is None:
                caller.parts = []
            caller.parts.append(results)
            caller.waiting_since = time.perf_counter()
            return
        if caller.parts is not None:
            results = np.concatenate([*caller.parts, results])
        if not caller.outcome.done():
            caller.outcome.set_result(results)

    def _fail(self, caller: _Caller, failure: Exception) -> None:
        if self._waiting and self._waiting[0] is caller:
            self._dequeue(caller)
        if not caller.outcome.done():
            caller.outcome.set_exception(failure)
