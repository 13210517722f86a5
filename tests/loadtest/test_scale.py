"""What so many workers may answer on so many cores, and what a process says of its memory."""

from __future__ import annotations

import os

import pytest

from loadtest.process_tree import Memory, memory_mb, memory_of
from loadtest.scale import Speed, Start, speed_table, start_table


def speed(workers: int, requests_a_second: float, server_us: float, client_us: float) -> Speed:
    return Speed(workers, 100, requests_a_second, server_us, client_us, busiest=1.0 / workers)


@pytest.mark.parametrize(
    ("workers", "server_us", "client_us", "core_count", "expected"),
    [
        (1, 100.0, 10.0, 2, 10_000.0),  # the worker
        (2, 100.0, 100.0, 3, 10_000.0),  # wrk's one thread
        (2, 100.0, 25.0, 2, 16_000.0),  # the cores, which both share
        (2, 100.0, 25.0, 8, 20_000.0),  # the workers
    ],
)
def test_what_a_machine_allows(
    workers: int, server_us: float, client_us: float, core_count: int, expected: float
) -> None:
    assert speed(workers, 0.0, server_us, client_us).allowed(core_count) == pytest.approx(expected)


def test_speeds_are_compared_with_those_of_the_fewest_workers() -> None:
    *_, line = speed_table([speed(1, 9000.0, 100.0, 25.0), speed(2, 14_400.0, 125.0, 25.0)], 2).splitlines()
    assert line.split() == ["100", "2", "14400", "1.60", "1.33", "1.60", "125.0", "25.0", "0.50"]


def test_each_more_worker_costs_what_the_sum_grows_by() -> None:
    alone, shared = Memory(70.0, 70.0, 60.0), Memory(70.0, 30.0, 20.0)
    starts = [Start(1, 0.8, [alone], [alone]), Start(3, 1.0, [shared] * 4, [shared] * 4)]
    *_, line = start_table(starts).splitlines()
    assert line.split() == ["3", "1.00", "120.0", "25.0", "20.0,", "20.0"]


def test_the_memory_of_this_process() -> None:
    memory = memory_of(os.getpid())
    assert memory is not None
    assert 0.0 < memory.private <= memory.proportional <= memory.resident
    assert memory_mb([os.getpid(), os.getpid()]) == pytest.approx(2 * memory.proportional, rel=0.1)
    assert memory_of(2**22 + 1) is None
