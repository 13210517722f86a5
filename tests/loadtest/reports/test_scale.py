"""What a number of workers can answer on a number of cores, and the memory of processes."""

from __future__ import annotations

import os

import pytest

from loadtest.processes.tree import Memory, memory_mb, memory_of
from loadtest.reports.scale import Speed, Start, core_of_wrk, pinning, speed_table, start_table


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
    assert line.split() == ["3", "1.00", "120.0", "25.0", "20.0", "20.0"]


def test_the_memory_of_this_process() -> None:
    memory = memory_of(os.getpid())
    assert memory is not None
    assert 0.0 < memory.private <= memory.proportional <= memory.resident
    assert memory.shared > 0.0
    assert memory_mb([os.getpid()]) == pytest.approx(memory.resident, rel=0.1)
    twice = memory_mb([os.getpid(), os.getpid()])
    assert twice == pytest.approx(2 * memory.private + memory.shared, rel=0.1)
    assert memory_of(2**22 + 1) is None
    assert memory_mb([2**22 + 1]) is None


@pytest.mark.parametrize(
    ("workers", "most", "expected"),
    [
        (1, 2, ("off", 4)),  # held from outside: the service pins several workers only
        (2, 2, ("on", None)),
        (1, 3, ("off", None)),  # the three leave wrk no core, so the one is not held either
        (3, 3, ("off", None)),
        (2, 4, ("off", None)),
    ],
)
def test_all_that_are_compared_have_cores_of_their_own_or_none_has(
    workers: int, most: int, expected: tuple[str, int | None]
) -> None:
    usable = [4, 5, 7]
    assert pinning(workers, most, usable) == expected
    assert core_of_wrk(most, usable) == (7 if most == 2 else None)
