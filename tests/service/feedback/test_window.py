"""An event is new once, over all processes, as long as its token is taken at all; memory is bounded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadConfiguration
from service.feedback.memory import SOURCES, TABLES, EventMemory
from service.feedback.tokens import Source
from service.feedback.window import EventWindow, Found, add_to_table

WINDOW_MS = 1_000_000
NOW = 10 * WINDOW_MS


def window_of(events: int = 1000) -> EventWindow:
    return EventWindow(EventMemory(events), WINDOW_MS)


def prints_of(*numbers: int) -> np.ndarray:
    """Fingerprints, spread over all bits as hashes are."""
    return np.array(numbers, np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)


def add(window: EventWindow, *numbers: int, made: int = NOW, now: int | None = None) -> list[Found]:
    prints = prints_of(*numbers)
    found = window.add(prints, np.full(len(prints), made, np.int64), made if now is None else now)
    return [Found(each) for each in found]


words = st.integers(1, 40) | st.integers(1, 2**64 - 1)


@given(st.lists(st.lists(words, max_size=12, unique=True), max_size=6))
def test_a_table_is_a_set(batches: list[list[int]]) -> None:
    """Also where many fingerprints have the same place, at the end of the table too."""
    table, known = np.zeros(128, np.uint64), set()
    for batch in batches:
        found = add_to_table(table, np.array(batch, np.uint64))
        assert found.tolist() == [word not in known for word in batch]
        known.update(batch)
        assert {*table[table != 0].tolist()} == known


def test_an_event_is_new_once_also_within_one_list() -> None:
    window = window_of()
    assert add(window, 1, 2, 1, 3, 2) == [Found.NEW, Found.NEW, Found.AGAIN, Found.NEW, Found.AGAIN]
    assert add(window, 3, 4) == [Found.AGAIN, Found.NEW]
    assert add(window, 0, 0) == [Found.NEW, Found.AGAIN]  # the hash that would be a free slot
    assert add(window) == []


def test_a_token_is_taken_for_the_window_and_its_event_is_known_for_as_long() -> None:
    window = window_of()
    assert add(window, 1, made=NOW) == [Found.NEW]
    for now in (NOW, NOW + WINDOW_MS // 2, NOW + WINDOW_MS - 1, NOW + WINDOW_MS):
        assert add(window, 1, made=NOW, now=now) == [Found.AGAIN]
    assert add(window, 2, made=NOW, now=NOW + WINDOW_MS) == [Found.NEW]
    assert add(window, 3, made=NOW, now=NOW + WINDOW_MS + 1) == [Found.TOO_OLD]
    assert window.seconds(NOW + WINDOW_MS + 1) == WINDOW_MS / 1000


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, WINDOW_MS // 2), st.integers(0, 30), st.integers(0, WINDOW_MS * 3 // 2)),
        max_size=60,
    )
)
def test_no_event_counts_twice_whenever_it_comes(steps: list[tuple[int, int, int]]) -> None:
    """Tokens of any age, over many windows: each is new once at most, and at first unless it is too old."""
    window, now, counted = window_of(), NOW, set()
    made_at: dict[int, int] = {}
    for passed, number, age in steps:
        now += passed
        made = made_at.setdefault(number, now - age)
        (found,) = add(window, number + 1, made=made, now=now)
        if made < now - WINDOW_MS:
            assert found is Found.TOO_OLD
        else:
            assert found is (Found.AGAIN if number in counted else Found.NEW)
            counted.add(number)


def test_more_events_than_there_is_room_for_shorten_the_window() -> None:
    window, now, seen = window_of(1000), NOW, 0
    capacity = 1024
    for start in range(1, 5 * capacity, 64):
        now += 10
        assert add(window, *range(start, start + 64), made=now) == [Found.NEW] * 64
        assert add(window, *range(start, start + 64), made=now) == [Found.AGAIN] * 64
        seen += 64
        if seen < capacity:
            assert window.seconds(now) == WINDOW_MS / 1000
    # Two generations, in steps of 64 events and 10 ms.
    assert 0.1 < window.seconds(now) < 0.4
    assert add(window, 10**9, made=now - 400, now=now) == [Found.TOO_OLD]


def test_what_comes_late_has_room_until_its_table_is_full() -> None:
    window = window_of(1000)
    assert add(window, 1, made=NOW) == [Found.NEW]
    later = NOW + WINDOW_MS  # the next generation begins
    found = [
        each
        for start in range(2, 3000, 50)
        for each in add(window, *range(start, start + 50), made=NOW, now=later)
    ]
    assert found.count(Found.NEW) in range(1700, 1793)
    assert set(found) == {Found.NEW, Found.NO_ROOM}
    assert add(window, *range(1, 51), made=NOW, now=later) == [Found.NO_ROOM] * 50
    assert add(window, 10**6, made=later) == [Found.NEW]


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process; how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_processes_share_what_is_new() -> None:
    memory = EventMemory(1000)
    window = EventWindow(memory, WINDOW_MS)
    assert in_child(lambda: add(window, 1, 2)) == 0
    assert add(window, 1, 2, 3) == [Found.AGAIN, Found.AGAIN, Found.NEW]


def test_a_process_that_holds_the_lock_keeps_no_other_waiting_and_its_death_releases_it() -> None:
    memory = EventMemory(1000)
    window = EventWindow(memory, WINDOW_MS)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with memory.locked():
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BlockingIOError):
        add(window, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert add(window, 1) == [Found.NEW]
    os.close(reader)
    os.close(writer)


def test_what_a_process_has_added_stays_when_it_dies_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = EventMemory(1000)
    window = EventWindow(memory, WINDOW_MS)
    add(window, 1, 2)

    def add_and_die() -> None:
        monkeypatch.setattr(np, "count_nonzero", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        add(window, 3, 4)

    assert in_child(add_and_die) == -signal.SIGKILL
    assert add(window, 1, 2, 3, 4, 5) == [Found.AGAIN] * 4 + [Found.NEW]
    used = sum(int(np.count_nonzero(table)) for table in memory.tables)
    assert used == 5
    assert sum(memory.header[8 : 8 + TABLES].tolist()) == 5


def test_a_generation_that_begins_as_its_process_dies_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = EventMemory(1000)
    window = EventWindow(memory, WINDOW_MS)
    assert add(window, 1, made=NOW + 10) == [Found.NEW]

    class Dying:
        """The header of a process that is killed by its n-th write."""

        def __init__(self, writes: int) -> None:
            self.left = writes

        def __getitem__(self, place: int) -> int:
            return int(memory.header[place])

        def __setitem__(self, place: int, value: int) -> None:
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            memory.header[place] = value

    now = NOW + 10 + WINDOW_MS
    for writes in range(7):

        def die(writes: int = writes) -> None:
            window._header = Dying(writes)  # type: ignore[assignment]
            add(window, 2, made=now, now=now)

        assert in_child(die) in (-signal.SIGKILL, 0)
        (found,) = add(window, 1, made=NOW + 10, now=now)
        assert found in (Found.AGAIN, Found.TOO_OLD)
    assert add(window, 3, made=now, now=now) == [Found.NEW]


def test_sources_are_known_to_all_processes_and_the_last_ones_stay() -> None:
    memory = EventMemory(1000)
    first = Source("control", "tiny@1", "float32")
    memory.add_sources([first, first])
    assert memory.sources == {first.number: first}

    def add_more() -> None:
        assert memory.sources == {first.number: first}
        memory.add_sources(Source("arm", f"bündle@{number}", "int8") for number in range(SOURCES + 5))
        memory.share_sources()

    memory.share_sources()
    assert in_child(add_more) == 0
    assert first in memory.sources.values()
    assert len(memory.sources) >= SOURCES - 1
    later = EventMemory.__new__(EventMemory)  # a process that is forked now
    later.__dict__.update(memory.__dict__, _known={}, _sources_read=0)
    assert len(later.sources) == SOURCES - 1
    assert Source("arm", "bündle@0", "int8") in later.sources.values()


def test_a_name_that_is_too_long_to_share_is_known_to_its_own_process() -> None:
    memory = EventMemory(1000)
    long = Source("control", "x" * 2000, "float32")
    memory.add_sources([long])
    memory.share_sources()
    assert memory.sources == {long.number: long}


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="'max_attributed_events' must be so many"):
        EventMemory(2**60)
