"""Micro-batching of opaque rows: what arrives within one turn of the event loop is run together, inline.

It knows nothing of CTR, of ONNX Runtime or of HTTP. There is no timer and no thread: when the loop is idle a
lone caller waits for nothing, and under load a batch is whatever the loop read from its sockets in one turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlinePassed, InferenceFailed, Overloaded

logger = logging.getLogger("bidlight")

Results = NDArray[Any]


class Rows(Protocol):
    """Rows of one caller: an array [n, ...], or whatever else has a length and slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Self: ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch about to run: its rows, the callers they belong to, and how long these waited, summed."""

    rows: int
    callers: int
    queue_seconds: float


class Outcome(Protocol):
    """Who is told of a result, at once and from within the batch: it must not raise. A future is one."""

    def done(self) -> bool:
        """Whether nobody waits any more: rows that have not run need not."""

    def set_result(self, result: Results, /) -> object:
        """The rows have run: [n], in order."""

    def set_exception(self, exception: BaseException, /) -> object:
        """The rows will not run, or did not."""


@dataclass(slots=True, eq=False)
class _Caller:
    """Rows that wait, and who waits for them: `left` of `size`, since `waiting_since` (a perf_counter())."""

    rows: Rows
    size: int
    outcome: Outcome
    waiting_since: float
    deadline: float | None
    left: int
    parts: list[Results] = field(default_factory=list)


class _Share(NamedTuple):
    """What a batch holds of one caller."""

    caller: _Caller
    rows: Rows
    size: int


class Batcher:
    """First come, first served, a batch of whole callers at a time, at most `max_batch_rows` rows.

    The first caller of a turn of the loop schedules one flush; the flush runs `run` on the rows of everybody
    who came meanwhile, and schedules the next one if some are left, so that sockets are read in between.
    A caller with more rows than a batch holds is run in parts. A caller that left (its future was cancelled)
    or whose deadline passed is dropped before its rows cost anything. A `run` that raises fails the callers
    of its batch, each with an error of its own, and nobody else.

    `run` takes the rows of the callers of a batch and returns the results of all, [n], in order; `observe` is
    told of every batch before it runs.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Results],
        *,
        max_batch_rows: int,
        max_queued_rows: int,
        observe: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self._run = run
        self._observe = observe
        self.max_batch_rows = max_batch_rows
        self.max_queued_rows = max_queued_rows
        self._waiting: deque[_Caller] = deque()
        self._queued_rows = 0
        self._flush_scheduled = False

    @property
    def queued_rows(self) -> int:
        """Rows that wait, those of callers who left included until their turn comes."""
        return self._queued_rows

    @property
    def is_behind(self) -> bool:
        """Whether more rows wait than the next batch takes."""
        return self._queued_rows > self.max_batch_rows

    def require_room(self, rows: int) -> None:
        """Raises Overloaded if so many rows would be refused: who asks before need not make them."""
        total = self._queued_rows + rows
        if total > self.max_queued_rows:
            raise Overloaded(
                f"the queue must hold {self.max_queued_rows} rows at most (got {total}); try again soon"
            )

    def submit(self, rows: Rows, *, deadline: float | None = None, outcome: Outcome | None = None) -> Any:
        """Queue `rows` [n, ...]; `outcome`, or else the future returned, gets `run`'s result for them [n].

        `deadline` is a `time.perf_counter()`: a caller still waiting then gets DeadlinePassed.
        Raises Overloaded when the queue has no room for all of them.
        """
        size = len(rows)
        self.require_room(size)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
        self._waiting.append(_Caller(rows, size, outcome, time.perf_counter(), deadline, size))
        self._queued_rows += size
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._flush, loop)
        return outcome

    async def drain(self) -> None:
        """Return when nobody waits any more."""
        while self._waiting:
            await asyncio.sleep(0)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            batch = self._take()
            if batch:
                self._run_batch(batch)
        finally:
            # Not a loop here: the sockets are read before the next batch, and late rows join it.
            self._flush_scheduled = bool(self._waiting)
            if self._flush_scheduled:
                loop.call_soon(self._flush, loop)

    def _take(self) -> list[_Share]:
        """The next batch; whoever left or is too late goes without."""
        batch: list[_Share] = []
        room = self.max_batch_rows
        now = time.perf_counter()
        while self._waiting and room:
            caller = self._waiting[0]
            left = caller.left
            if caller.outcome.done():
                self._forget(caller)
            elif caller.deadline is not None and now > caller.deadline:
                self._forget(caller)
                caller.outcome.set_exception(
                    DeadlinePassed("the deadline passed in the queue; allow more time")
                )
            elif left <= room:
                rows = caller.rows if left == caller.size else caller.rows[caller.size - left :]
                batch.append(_Share(caller, rows, left))
                self._forget(caller)
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

    def _forget(self, caller: _Caller) -> None:
        self._waiting.popleft()
        self._queued_rows -= caller.left

    def _run_batch(self, batch: list[_Share]) -> None:
        try:
            total = sum(share.size for share in batch)
            if self._observe is not None:
                now = time.perf_counter()
                waited = sum(now - share.caller.waiting_since for share in batch)
                self._observe(BatchReport(total, len(batch), waited))
            results = self._run([share.rows for share in batch])
            if len(results) != total:
                raise ValueError(f"a run must give a result a row (got {len(results)} for {total} rows)")
        except Exception as error:
            logger.exception("a batch of %d callers failed", len(batch))
            for share in batch:
                self._fail(share.caller, error)
            return
        start = 0
        for share in batch:
            stop = start + share.size
            self._deliver(share.caller, results[start:stop])
            start = stop

    def _deliver(self, caller: _Caller, results: Results) -> None:
        if self._waiting and self._waiting[0] is caller:
            caller.parts.append(results)
            caller.waiting_since = time.perf_counter()
            return
        if caller.parts:
            results = np.concatenate([*caller.parts, results])
        if not caller.outcome.done():
            caller.outcome.set_result(results)

    def _fail(self, caller: _Caller, error: Exception) -> None:
        if self._waiting and self._waiting[0] is caller:
            self._forget(caller)
        if not caller.outcome.done():
            # One exception raised in several tasks would collect the traceback of each.
            failure = InferenceFailed("the batch that held these rows failed; the service has logged why")
            failure.__cause__ = error
            caller.outcome.set_exception(failure)
