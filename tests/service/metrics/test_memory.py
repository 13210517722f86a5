"""Processes count in one memory: nothing is lost, and no reader sees half of anything."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from service.metrics.memory import MAX_NUMBERS, CountMemory, CountPart, UnreadableCounts

PAGE = 4096


def content_of(memory: CountMemory, number: int) -> dict[bytes, tuple[tuple[float, ...], bool]]:
    """Numbers of the series of a part, and whether they are shown."""
    return {series.key: (series.numbers, series.is_shown) for series in memory.read(number)}


def add(part: CountPart, key: bytes, *amounts: float, is_lasting: bool = True) -> bool:
    """Add to a series' numbers; whether it has room."""
    place = part.place(key, len(amounts), is_lasting=is_lasting)
    for offset, amount in enumerate(amounts):
        part.numbers[(place or part.scratch).at + offset] += amount
    return place is not None


def test_a_part_holds_what_was_added() -> None:
    memory = CountMemory(parts=2)
    one, other = CountPart(memory, 0), CountPart(memory, 1)
    add(one, b"counter", 1.5)
    add(one, b"histogram of \xff", 1, 2, 3)
    add(other, b"counter", 4)
    add(one, b"counter", 0.25)
    assert content_of(memory, 0) == {b"counter": ((1.75,), True), b"histogram of \xff": ((1, 2, 3), True)}
    assert content_of(memory, 1) == {b"counter": ((4,), True)}


def test_a_successor_counts_on_and_shows_only_what_it_uses() -> None:
    memory = CountMemory(parts=2)
    first = CountPart(memory, 1)
    add(first, b"lasting", 3)
    add(first, b"used", 5, is_lasting=False)
    add(first, b"of the first", 7, is_lasting=False)
    assert all(is_shown for _, is_shown in content_of(memory, 1).values())
    memory.end_tenure(1)
    assert [is_shown for _, is_shown in content_of(memory, 1).values()] == [True, False, False]
    second = CountPart(memory, 1)
    add(second, b"used", 1, is_lasting=False)
    add(second, b"lasting", 1)
    expected = {b"lasting": ((4,), True), b"used": ((6,), True), b"of the first": ((7,), False)}
    assert content_of(memory, 1) == expected


def test_what_is_hidden_makes_room_and_what_others_show_stays() -> None:
    memory = CountMemory(parts=2, half_bytes=PAGE)
    part, other = CountPart(memory, 0), CountPart(memory, 1)
    added = 0
    while add(part, b"%04d" % added, 1, is_lasting=added % 2 == 0):
        added += 1
    assert not add(part, b"one more", 1)
    assert added == PAGE // (3 * 8 + 8 + 8)
    for number in range(1, added, 2):
        part.hide(b"%04d" % number)
    add(other, b"0001", 1, is_lasting=False)
    assert add(part, b"one more", 1)
    found = content_of(memory, 0)
    lasting = {b"%04d" % number: ((1,), True) for number in range(0, added, 2)}
    assert found == {**lasting, b"0001": ((1,), False), b"one more": ((1,), True)}
    add(part, b"0000", 1)  # it has moved
    assert content_of(memory, 0)[b"0000"] == ((2,), True)


def test_a_half_that_is_left_while_it_is_read_is_not_believed() -> None:
    class Interrupted(CountMemory):
        """Its writer moves to the other half, and begins to fill this one again, before it is copied."""

        is_interrupted = False

        def half(self, number: int, epoch: int) -> int:
            start = super().half(number, epoch)
            if self.is_interrupted:
                self.is_interrupted = False
                part._move(kept)
                self.bytes[start + 8 : start + 32] = b"\x01" * 24
            return start

    memory = Interrupted(half_bytes=PAGE)
    part = CountPart(memory, 0)
    add(part, b"counter", 2.5)
    kept = list(memory.read(0))
    memory.is_interrupted = True
    assert content_of(memory, 0) == {b"counter": ((2.5,), True)}


def test_what_is_added_to_a_removed_series_goes_nowhere() -> None:
    memory = CountMemory(half_bytes=PAGE)
    part = CountPart(memory, 0)
    removed = part.place(b"removed", MAX_NUMBERS, is_lasting=False)
    assert removed is not None
    part.hide(b"removed")
    added = 0
    while add(part, b"%04d" % added, 1):
        added += 1
    before = content_of(memory, 0)
    for offset in range(MAX_NUMBERS):
        part.numbers[removed.at + offset] += 1
    assert content_of(memory, 0) == before
    assert len(before) == added == PAGE // (3 * 8 + 8 + 8)


KEYS = st.sampled_from([b"k" * length for length in (1, 7, 8, 9, 100)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), KEYS, st.booleans()),
        st.tuples(st.just("hide"), st.integers(0, 2), KEYS),
        st.tuples(st.just("end"), st.integers(0, 2)),
        st.tuples(st.just("fill"), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_the_sum_of_what_is_shown_never_falls(steps: list[tuple[object, ...]]) -> None:
    memory = CountMemory(parts=3, half_bytes=PAGE)
    parts = [CountPart(memory, number) for number in range(3)]
    fillers = 0
    before: dict[bytes, float] = {}
    for name, number, *rest in steps:
        assert isinstance(number, int)
        if name == "add":
            key, is_lasting = rest
            assert isinstance(key, bytes)
            add(parts[number], key, 1.0, is_lasting=bool(is_lasting))
        elif name == "hide":
            assert isinstance(rest[0], bytes)
            parts[number].hide(rest[0])
        elif name == "end":
            memory.end_tenure(number)
            parts[number] = CountPart(memory, number)
        else:
            for _ in range(60):
                fillers += 1
                add(parts[number], b"filler %d" % fillers, 1.0, is_lasting=False)
                parts[number].hide(b"filler %d" % fillers)
        sums: dict[bytes, float] = {}
        shown = set()
        for each in range(3):
            for key, (numbers, is_shown) in content_of(memory, each).items():
                sums[key] = sums.get(key, 0.0) + numbers[0]
                shown |= {key} if is_shown else set()
        # A series that nobody shows may lose its numbers; one that stays shown may not.
        assert all(sums[key] >= before[key] for key in before.keys() & shown)
        before = {key: sums[key] for key in shown}


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 300), st.booleans())
def test_whatever_lies_in_a_part_it_is_read_to_where_it_makes_sense(
    garbage: bytes, at: int, of_header: bool
) -> None:
    memory = CountMemory(parts=2, half_bytes=PAGE)
    part = CountPart(memory, 1)
    for number in range(10):
        add(part, b"series %d" % number, 1.0, 2.0)
    start = memory.header(1) * 8 if of_header else memory.half(1, 0)
    memory.bytes[start + at : start + at + len(garbage)] = garbage
    found = []
    try:
        found.extend(memory.read(1))
    except UnreadableCounts:
        pass
    else:
        return
    successor = CountPart(memory, 1)  # goes on with what can be read
    assert content_of(memory, 1).keys() == {series.key for series in found}
    assert add(successor, b"new", 1.0)
    assert content_of(memory, 1)[b"new"][0] == (1.0,)


@contextmanager
def forked(run: Callable[[], object]) -> Iterator[None]:
    """A process that calls `run` again and again, until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                run()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL


class Writer:
    """Counts on in one series for ever, and uses a few others of changing sizes for a while each."""

    def __init__(self, memory: CountMemory) -> None:
        self._part = CountPart(memory, 1)
        self._used: list[bytes] = []
        self._draw = random.Random(os.urandom(8))

    def count(self) -> None:
        add(self._part, b"lasting", 1.0)
        number = self._draw.randrange(1, 1000)
        place = self._part.place(key := b"%d" % number, width_of(number), is_lasting=False)
        if place is not None:
            for offset in range(width_of(number)):
                self._part.numbers[place.at + offset] = number
        self._used.append(key)
        if len(self._used) > 5:
            self._part.hide(self._used.pop(self._draw.randrange(6)))


def width_of(number: int) -> int:
    return number % MAX_NUMBERS + 1


def test_a_reader_sees_whole_series_while_a_process_writes_and_is_killed() -> None:
    memory = CountMemory(parts=2, half_bytes=PAGE)
    before, reads = 0.0, 0
    for _ in range(8):
        with forked(Writer(memory).count):
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                found = content_of(memory, 1)
                (counted,), _ = found.pop(b"lasting", ((before,), True))
                assert counted >= before
                before, reads = counted, reads + 1
                for key, (numbers, _) in found.items():
                    assert len(numbers) == width_of(int(key))
                    assert set(numbers) <= {0.0, float(key)}
        memory.end_tenure(1)
    assert before > 1000
    assert reads > 1000
