"""Counts of several processes, in anonymous memory that is mapped before they are forked; it knows no metric.

Each process writes to a part of its own and reads all parts. So nothing is locked, nothing lies in a file,
and however a process ends, the others read on; its successor counts on in its part. A part holds series, each
a key and one or more float64 numbers:

    part   = epoch, tenure, bytes in use of either half, scratch | half | half
    half   = series | series | ...
    series = bytes of the key, how many numbers, mark | numbers | key

A reader never meets half of something. A series is there once the bytes in use include it; it leaves when the
others are copied to the other half and the epoch, whose last bit tells which half holds, is counted up.
Whatever has 8 bytes is aligned to them, so processors read and write it whole.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

WORD = 8
HEADER_BYTES = 4096
# Room for about 6,000 counters in each part. Memory that is never written to is not taken.
HALF_BYTES = 1 << 19

# Words of a part's header. A tenure is the time of one process; the next one begins when that has ended.
_EPOCH, _TENURE, _USED, _SCRATCH = 0, 1, 2, 4
MAX_NUMBERS = 64

# Marks of series. Any other mark is the tenure in which it is shown.
_LASTING, _NEVER = -1, -2

_HEAD = struct.Struct("=qqq")
_READ_ATTEMPTS = 3


class UnreadableCounts(Exception):
    """A part holds what no process writes; the series behind it are not found."""


class StoredSeries(NamedTuple):
    """A series as it is read. Its process shows it, or did once; its numbers are `at` bytes into the half."""

    key: bytes
    numbers: tuple[float, ...]
    mark: int
    is_shown: bool
    at: int


class CountMemory:
    """The memory of `parts` processes; those that are forked after it was made share it. Raises OSError.

    A part holds series of `half_bytes`, a multiple of the size of a page.
    """

    def __init__(self, parts: int = 1, half_bytes: int = HALF_BYTES) -> None:
        self.parts = parts
        self.half_bytes = half_bytes
        self._part_bytes = HEADER_BYTES + 2 * half_bytes
        self.bytes = memoryview(mmap.mmap(-1, parts * self._part_bytes))
        self.words = self.bytes.cast("q")
        self.numbers = self.bytes.cast("d")

    def header(self, number: int) -> int:
        """The word at which a part begins."""
        return number * self._part_bytes // WORD

    def half(self, number: int, epoch: int) -> int:
        """The byte at which the half begins that holds in an epoch."""
        return number * self._part_bytes + HEADER_BYTES + epoch % 2 * self.half_bytes

    def end_tenure(self, number: int) -> None:
        """What the process of a part has shown is shown no more. Call it when that process has ended."""
        self.words[self.header(number) + _TENURE] += 1

    def read(self, number: int) -> Iterator[StoredSeries]:
        """All series of a part. Raises UnreadableCounts at the first that cannot be read."""
        tenure = self.words[self.header(number) + _TENURE]
        content = self._content(number)
        position = 0
        while position < len(content):
            at = position + _HEAD.size
            if at > len(content):
                raise UnreadableCounts
            length, width, mark = _HEAD.unpack_from(content, position)
            key_at = at + width * WORD
            if length < 1 or not 1 <= width <= MAX_NUMBERS or key_at + length > len(content):
                raise UnreadableCounts
            numbers = struct.unpack_from(f"={width}d", content, at)
            key = content[key_at : key_at + length]
            yield StoredSeries(key, numbers, mark, mark in (_LASTING, tenure), at)
            position = key_at + length + -length % WORD

    def shown_keys(self) -> set[bytes]:
        """The keys of the series that at least one process shows."""
        found: set[bytes] = set()
        for number in range(self.parts):
            try:
                found.update(series.key for series in self.read(number) if series.is_shown)
            except UnreadableCounts:
                continue
        return found

    def _content(self, number: int) -> bytes:
        """A copy of the bytes in use of the half that holds."""
        header = self.header(number)
        for _ in range(_READ_ATTEMPTS):
            epoch = self.words[header + _EPOCH]
            used = self.words[header + _USED + epoch % 2]
            if not 0 <= used <= self.half_bytes:
                break
            start = self.half(number, epoch)
            content = bytes(self.bytes[start : start + used])
            # Once its writer has left a half, it may be filling that half again already.
            if self.words[header + _EPOCH] == epoch:
                return content
        raise UnreadableCounts


class Place:
    """Where the numbers of a series are: `at` is the index of the first among all of the memory."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at


class CountPart:
    """The part of this process, which alone writes to it; it goes on with what an earlier process left."""

    def __init__(self, memory: CountMemory, number: int) -> None:
        self.numbers = memory.numbers
        self.array = np.frombuffer(memory.bytes, np.float64)
        self._memory = memory
        self._words = memory.words
        self._number = number
        self._header = memory.header(number)
        # For series that have no room; nobody reads it.
        self.scratch = Place(self._header + _SCRATCH)
        self._places: dict[bytes, Place] = {}
        self._may_have_room = True
        start = memory.half(number, self._epoch)
        found: dict[bytes, StoredSeries] = {}
        try:
            for series in memory.read(number):
                found[series.key] = series
                self._places[series.key] = Place((start + series.at) // WORD)
        except UnreadableCounts:
            self._move(found.values())  # without what cannot be read

    def place(self, key: bytes, width: int, *, is_lasting: bool) -> Place | None:
        """The place of a series of `width` numbers, zeros if it is new; None if it has no room.

        The series is shown always, or until this process hides it or ends.
        """
        mark = _LASTING if is_lasting else self._words[self._header + _TENURE]
        place = self._places.get(key)
        if place is None:
            return self._add(key, _stored(key, (0.0,) * width, mark))
        self._words[place.at - 1] = mark
        return place

    def hide(self, key: bytes) -> None:
        """Show a series no more. It keeps its numbers until the room is needed."""
        place = self._places.get(key)
        if place is not None:
            self._words[place.at - 1] = _NEVER
            self._may_have_room = True

    @property
    def _epoch(self) -> int:
        return self._words[self._header + _EPOCH]

    @property
    def _used(self) -> int:
        return self._words[self._header + _USED + self._epoch % 2]

    def _add(self, key: bytes, stored: bytes) -> Place | None:
        if self._used + len(stored) > self._memory.half_bytes:
            self._make_room()
        used = self._used
        if used + len(stored) > self._memory.half_bytes:
            return None
        place = self._places[key] = self._write(stored, self._epoch, used)
        self._words[self._header + _USED + self._epoch % 2] = used + len(stored)
        return place

    def _make_room(self) -> None:
        """Remove what no process shows. What another one shows stays, or the sum of all would fall."""
        if self._may_have_room:
            self._may_have_room = False
            shown = self._memory.shown_keys()
            self._move([series for series in self._memory.read(self._number) if series.key in shown])

    def _move(self, kept: Iterable[StoredSeries]) -> None:
        """Let the other half hold these series alone. What is added to others goes to the scratch."""
        epoch, used = self._epoch + 1, 0
        places: dict[bytes, Place] = {}
        for series in kept:
            stored = _stored(series.key, series.numbers, series.mark)
            places[series.key] = self._places.pop(series.key)
            places[series.key].at = self._write(stored, epoch, used).at
            used += len(stored)
        self._words[self._header + _USED + epoch % 2] = used
        self._words[self._header + _EPOCH] = epoch
        for place in self._places.values():
            place.at = self.scratch.at
        self._places = places

    def _write(self, stored: bytes, epoch: int, used: int) -> Place:
        """Write a series behind those of the half that holds in that epoch; its place."""
        start = self._memory.half(self._number, epoch) + used
        self._memory.bytes[start : start + len(stored)] = stored
        return Place((start + _HEAD.size) // WORD)


def _stored(key: bytes, numbers: tuple[float, ...], mark: int) -> bytes:
    """A series as it lies in memory."""
    head = _HEAD.pack(len(key), len(numbers), mark)
    return head + struct.pack(f"={len(numbers)}d", *numbers) + key + bytes(-len(key) % WORD)
