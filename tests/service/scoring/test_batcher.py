"""Micro-batching: which rows run when, and what each caller gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import DeadlinePassed, InferenceFailed, Overloaded, RowFailed
from service.scoring.batcher import Batcher, BatchReport, RowsFailed

Rows = NDArray[np.int32]


def doubled(callers: list[Rows], _: BatchReport | None = None) -> Rows:
    return np.concatenate(callers)[:, 0] * 2


def rows_of(*values: int) -> Rows:
    return np.array(values, np.int32)[:, None]


class Recorder:
    """A run that remembers its batches and reports; raises on a batch that holds `bad`."""

    def __init__(self, bad: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.reports: list[BatchReport] = []
        self.bad = bad

    def __call__(self, callers: list[Rows], report: BatchReport) -> Rows:
        self.reports.append(report)
        self.batches.append(np.concatenate(callers)[:, 0].tolist())
        if self.bad in self.batches[-1]:
            raise ArithmeticError("a bad row")
        return doubled(callers)


def batcher_of(run: Callable[[list[Rows], BatchReport], Rows], batch: int = 8, queued: int = 100) -> Batcher:
    return Batcher(run, max_batch_rows=batch, max_queued_rows=queued)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_callers_of_one_iteration_share_a_batch_and_get_their_own_rows() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder)
        futures = [batcher.submit(rows_of(1)), batcher.submit(rows_of(2, 3)), batcher.submit(rows_of(4))]
        assert [(await future).tolist() for future in futures] == [[2], [4, 6], [8]]
        assert recorder.batches == [[1, 2, 3, 4]]

    run(scenario())


def test_a_lone_caller_runs_in_the_next_iteration() -> None:
    async def scenario() -> None:
        future = batcher_of(doubled).submit(rows_of(7))
        await asyncio.sleep(0)
        assert future.done()

    run(scenario())


def test_batches_are_of_whole_callers_and_the_loop_runs_in_between() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder, batch=4)
        futures = [batcher.submit(rows_of(n, n, n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        assert [future.done() for future in futures] == [True, False, False]
        late = batcher.submit(rows_of(4))
        await asyncio.gather(*futures, late)
        assert recorder.batches == [[1, 1, 1], [2, 2, 2], [3, 3, 3, 4]]

    run(scenario())


def test_a_caller_larger_than_a_batch_runs_in_parts() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder, batch=4)
        futures = [
            batcher.submit(rows_of(0)),
            batcher.submit(rows_of(*range(1, 11))),
            batcher.submit(rows_of(11)),
        ]
        results = [(await future).tolist() for future in futures]
        assert results == [[0], [2 * n for n in range(1, 11)], [22]]
        assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
        assert batcher.queued_rows == 0

    run(scenario())


def test_rows_of_a_cancelled_caller_do_not_run() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder)
        futures = [batcher.submit(rows_of(n)) for n in (1, 2, 3)]
        futures[1].cancel()
        assert (await futures[0]).tolist() == [2]
        assert (await futures[2]).tolist() == [6]
        assert recorder.batches == [[1, 3]]
        assert batcher.queued_rows == 0

    run(scenario())


def test_a_cancelled_task_does_no_harm_to_its_batch() -> None:
    async def scenario() -> None:
        batcher = batcher_of(doubled)

        async def call(value: int) -> list[int]:
            return (await batcher.submit(rows_of(value))).tolist()

        tasks = [asyncio.create_task(call(value)) for value in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(2), asyncio.CancelledError)
        assert results == [[0], [2], [6], [8]]

    run(scenario())


def test_a_large_caller_that_leaves_between_its_parts_is_dropped() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder, batch=2)
        large, small = batcher.submit(rows_of(1, 2, 3, 4, 5)), batcher.submit(rows_of(6))
        await asyncio.sleep(0)
        large.cancel()
        assert (await small).tolist() == [12]
        assert recorder.batches == [[1, 2], [6]]
        assert batcher.queued_rows == 0

    run(scenario())


def test_a_failing_run_reaches_its_callers_and_the_next_batch_works() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Recorder(bad=2), batch=2)
        futures = [batcher.submit(rows_of(n)) for n in (1, 2, 3, 4)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        failures = results[:2]
        assert all(isinstance(failure, InferenceFailed) for failure in failures)
        assert failures[0] is not failures[1]
        assert [result.tolist() for result in results[2:]] == [[6], [8]]
        assert (await batcher.submit(rows_of(5))).tolist() == [10]

    run(scenario())


def test_a_large_caller_fails_as_a_whole() -> None:
    async def scenario() -> None:
        recorder = Recorder(bad=3)
        batcher = batcher_of(recorder, batch=2)
        large, small = batcher.submit(rows_of(1, 2, 3, 4, 5, 6)), batcher.submit(rows_of(7))
        with pytest.raises(InferenceFailed):
            await large
        assert (await small).tolist() == [14]
        assert recorder.batches == [[1, 2], [3, 4], [7]]
        assert batcher.queued_rows == 0

    run(scenario())


def test_rows_without_a_result_fail_their_callers_alone() -> None:
    """The second caller is in two batches, and only its last row fails."""

    def run_some(callers: list[Rows], _: BatchReport) -> Rows:
        values = np.concatenate(callers)[:, 0]
        failed = values == 9
        if failed.any():
            raise RowsFailed(values * 2, failed)
        return values * 2

    async def scenario() -> None:
        batcher = batcher_of(run_some, batch=3)
        futures = [batcher.submit(rows) for rows in (rows_of(1), rows_of(2, 3, 4, 9), rows_of(5), rows_of(6))]
        first, failed, third, last = await asyncio.gather(*futures, return_exceptions=True)
        assert [each.tolist() for each in (first, third, last)] == [[2], [10], [12]]
        assert isinstance(failed, RowFailed)
        assert batcher.queued_rows == 0

    run(scenario())


def test_a_run_that_loses_rows_fails() -> None:
    async def scenario() -> None:
        with pytest.raises(InferenceFailed):
            await batcher_of(lambda rows, _: rows[0][:1, 0]).submit(rows_of(1, 2))

    run(scenario())


def test_a_full_queue_refuses_until_it_has_room() -> None:
    async def scenario() -> None:
        batcher = batcher_of(doubled, queued=3)
        first = batcher.submit(rows_of(1, 2))
        with pytest.raises(Overloaded, match="3 rows"):
            batcher.submit(rows_of(3, 4))
        second = batcher.submit(rows_of(5))
        await asyncio.gather(first, second)
        assert (await batcher.submit(rows_of(3, 4))).tolist() == [6, 8]

    run(scenario())


def test_reserved_room_is_taken_until_it_is_released_or_its_rows_have_run() -> None:
    async def scenario() -> None:
        batcher = batcher_of(doubled, queued=3)
        batcher.reserve(2)
        for refused in (batcher.reserve, lambda rows: batcher.submit(rows_of(*range(rows)))):
            with pytest.raises(Overloaded, match="3 rows"):
                refused(2)
        first, second = batcher.submit_reserved(rows_of(1, 2)), batcher.submit(rows_of(3))
        with pytest.raises(Overloaded, match="3 rows"):
            batcher.reserve(1)
        assert [(await future).tolist() for future in (first, second)] == [[2, 4], [6]]
        batcher.reserve(3)
        batcher.release(3)
        batcher.reserve(3)

    run(scenario())


def test_a_caller_past_its_deadline_is_refused_and_does_not_run() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder)
        late = batcher.submit(rows_of(1), deadline=time.perf_counter() - 1.0)
        in_time = batcher.submit(rows_of(2), deadline=time.perf_counter() + 60.0)
        with pytest.raises(DeadlinePassed):
            await late
        assert (await in_time).tolist() == [4]
        assert recorder.batches == [[2]]

    run(scenario())


def test_the_parts_of_a_large_caller_do_not_wait_at_the_same_time() -> None:
    """The waiting times of its parts add up to its time in the queue, not to a multiple of that."""

    reports: list[BatchReport] = []

    def slow(rows: list[Rows], report: BatchReport) -> Rows:
        reports.append(report)
        time.sleep(0.01)
        return doubled(rows)

    async def scenario() -> None:
        started = time.perf_counter()
        await batcher_of(slow, batch=2).submit(rows_of(*range(20)))
        assert len(reports) == 10
        assert sum(report.queue_seconds for report in reports) < time.perf_counter() - started - 0.09

    run(scenario())


def test_drain_returns_when_all_are_served() -> None:
    async def scenario() -> None:
        batcher = batcher_of(doubled, batch=2)
        futures = [batcher.submit(rows_of(n, n, n)) for n in range(10)]
        await batcher.drain()
        assert all(future.done() for future in futures)
        await batcher.drain()

    run(scenario())


def test_a_batch_comes_with_its_rows_callers_and_waiting_time() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder, batch=4)
        await asyncio.gather(*[batcher.submit(rows_of(n, n)) for n in range(3)])
        assert [(report.rows, report.callers) for report in recorder.reports] == [(4, 2), (2, 1)]
        assert all(report.queue_seconds > 0.0 for report in recorder.reports)

    run(scenario())


arrivals = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 2), st.sampled_from(["stay", "stay", "stay", "leave"])),
    max_size=30,
)


@given(arrivals, st.integers(1, 8), st.integers(4, 40))
@settings(deadline=None)
def test_whatever_arrives_each_caller_gets_its_own_rows_in_order(
    callers: list[tuple[int, int, str]], batch: int, queued: int
) -> None:
    """Callers of any size arrive with any pauses. Some leave, some are refused, all others are served."""

    async def scenario() -> None:
        recorder = Recorder()
        batcher = batcher_of(recorder, batch=batch, queued=queued)
        start = 0
        waiting = []
        for size, pause, conduct in callers:
            rows = rows_of(*range(start, start + size))
            start += size
            room = queued - batcher.queued_rows
            try:
                future = batcher.submit(rows)
            except Overloaded:
                assert size > room
                continue
            assert size <= room
            if conduct == "leave":
                future.cancel()
            else:
                waiting.append((rows, future))
            for _ in range(pause):
                await asyncio.sleep(0)
        await batcher.drain()
        for rows, future in waiting:
            assert (await future).tolist() == doubled([rows]).tolist()
        ran = [value for values in recorder.batches for value in values]
        assert ran == [value for rows, _ in waiting for value in rows[:, 0].tolist()]
        assert all(0 < len(values) <= batch for values in recorder.batches)
        assert batcher.queued_rows == 0

    run(scenario())
