"""Counts by the time of their tokens, over processes: nothing is lost, and what is mature is found."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.calibration.counts import CLICKS, IMPRESSIONS, PREDICTED
from service.calibration.memory import SLOTS, LiveMemory, LiveState
from service.calibration.slots import SlotPart

WINDOW = 1_600
START = 1_800_000_000_000
NUMBER = 0xFFFF_FFFF


def memory_of(parts: int = 2, places: int = 2) -> LiveMemory:
    memory = LiveMemory(parts, places, WINDOW)
    memory.keep({NUMBER})
    return memory


def add(part: SlotPart[int], made_ms: int, impressions: int, clicks: int, number: int = NUMBER) -> None:
    rows = impressions + clicks
    part.add(
        number,
        np.full(rows, made_ms, np.int64),
        np.full(rows, -3.0, np.float32),
        np.arange(rows) >= impressions,
    )


def mature(memory: LiveMemory, now: int, number: int = NUMBER) -> tuple[float, float]:
    place = memory.place(number)
    assert place is not None
    counts = memory.mature(place, now)
    assert counts[:, PREDICTED].sum() == pytest.approx(counts[:, IMPRESSIONS].sum() / (1 + np.exp(3.0)))
    return counts[:, IMPRESSIONS].sum(), counts[:, CLICKS].sum()


def test_a_slot_counts_once_its_clicks_had_their_time_and_late_clicks_correct_it() -> None:
    memory = memory_of()
    assert memory.slot_ms == 100_000
    one, other = SlotPart(memory, 0), SlotPart(memory, 1)
    add(one, START + 5_000, 100, 2)
    add(other, START + 99_999, 50, 1)  # the same slot, in another process
    add(one, START + 100_000, 7, 7)
    last = START + 100_000 + 1000 * WINDOW
    assert mature(memory, last - 1) == (0, 0)
    assert mature(memory, last) == (150, 3)
    add(other, START + 1, 0, 4)
    assert mature(memory, last) == (150, 7)
    assert mature(memory, last + 100_000) == (157, 14)


def test_slots_are_read_one_by_one_over_processes_until_they_are_settled() -> None:
    memory = memory_of()
    one, other = SlotPart(memory, 0), SlotPart(memory, 1)
    add(one, START, 100, 2)
    add(other, START + 99_999, 50, 1)
    add(one, START + 100_000, 7, 7)
    slot, place = START // memory.slot_ms, memory.place(NUMBER)
    assert place is not None

    def shown(number: int) -> float:
        return float(memory.in_slot(place, number)[:, IMPRESSIONS].sum())

    assert [shown(slot + step) for step in (-1, 0, 1, 2)] == [0, 150, 7, 0]
    last = (slot + 1) * memory.slot_ms + 1000 * WINDOW
    assert [memory.last_mature(last + late) for late in (-1, 0, 1)] == [slot - 1, slot, slot]
    add(one, START + SLOTS * memory.slot_ms, 1, 0)  # the first process needs the place of the slot
    assert shown(slot) == 50


def test_a_slot_that_is_needed_again_is_settled_and_takes_what_is_later_still() -> None:
    memory = memory_of()
    part = SlotPart(memory, 0)
    add(part, START, 10, 1)
    add(part, START + SLOTS * memory.slot_ms, 20, 2)
    assert mature(memory, START) == (10, 1)
    add(part, START, 1, 1)
    assert mature(memory, START) == (11, 2)
    assert mature(memory, START + 2 * SLOTS * memory.slot_ms) == (31, 4)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 9), st.integers(0, 3), st.integers(0, 2))))
@settings(deadline=None, max_examples=30)
def test_nothing_is_lost_or_counted_twice(added: list[tuple[int, int, int, int]]) -> None:
    memory = memory_of(parts=3)
    parts = [SlotPart(memory, number) for number in range(3)]
    for minutes, impressions, clicks, number in added:
        add(parts[number], START + 60_000 * minutes, impressions, clicks)
    totals = [sum(each[place] for each in added) for place in (1, 2)]
    assert mature(memory, START + 10_000 * 60_000 + 1000 * WINDOW) == tuple(totals)


def test_sources_without_a_place_are_left_out_and_a_new_one_begins_empty() -> None:
    memory = memory_of(places=2)
    part = SlotPart(memory, 0)
    add(part, START, 5, 1)
    add(part, START, 5, 1, number=7)
    assert memory.place(7) is None
    assert memory.keep({NUMBER, 7, 8}) == {NUMBER: 0, 7: 1}
    late = START + 10_000_000
    assert mature(memory, late) == (5, 1)
    memory.write(0, LiveState(3, 0.5, 0.9))
    assert memory.keep({7, 8}) == {7: 1, 8: 0}
    assert (memory.read(0).revision, memory.read(0).intercept, memory.read(0).slope) == (0, 0.0, 1.0)
    assert mature(memory, late, number=8) == (0, 0)
    add(part, START, 5, 1)
    add(part, START, 3, 2, number=8)
    assert mature(memory, late, number=8) == (3, 2)


def test_a_new_source_takes_the_place_that_has_been_left_for_longest() -> None:
    memory = LiveMemory(1, 3, WINDOW)
    assert memory.keep({1, 2}) == {1: 0, 2: 1}
    assert memory.keep({2, 3}) == {2: 1, 3: 2}
    memory.keep({1, 3})
    assert memory.keep({3, 4}) == {3: 2, 4: 1}
    assert memory.keep({4, 5}) == {4: 1, 5: 0}
    assert memory.place(3) == 2


def test_what_is_decided_is_read_by_others() -> None:
    memory = memory_of()
    state = LiveState(17, -0.25, 0.9, 50.5, 1.25, 1.01, is_frozen=True, dispersion=2.5)
    child = os.fork()
    if child == 0:
        memory.write(0, state)
        os._exit(0)
    os.waitpid(child, 0)
    assert memory.read(0) == state


@pytest.fixture
def counting_child() -> Iterator[tuple[LiveMemory, int]]:
    memory = memory_of()
    child = os.fork()
    if child == 0:
        part, slots = SlotPart(memory, 1), 0
        while True:
            slots += 1
            add(part, START + slots * memory.slot_ms, 1, 1)
    yield memory, child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_reader_meets_whole_slots_while_they_move(counting_child: tuple[LiveMemory, int]) -> None:
    memory, _ = counting_child
    before, late = 0.0, START + 10**12
    while before < 200:
        impressions, clicks = mature(memory, late)
        assert impressions >= before
        assert abs(impressions - clicks) <= 1
        before = impressions


def test_the_successor_of_a_process_that_was_killed_while_it_moved_counts_goes_on() -> None:
    memory = memory_of()
    part = SlotPart(memory, 0)
    add(part, START, 1, 1)
    memory.times[0, 0, 0] += 1
    assert mature(memory, START + 10**9) == (1, 1)
    add(SlotPart(memory, 0), START, 1, 1)
    assert mature(memory, START + 10**9) == (2, 2)
    assert memory.times[0, 0, 0] % 2 == 0
