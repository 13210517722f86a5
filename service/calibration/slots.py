"""Counts by when tokens were made, which each process adds to in a part of its own, without a lock.

The memory is anonymous and mapped before processes are forked. It has places for what is counted apart, and
for each place slots of one length in time:

    header = some words of each place, for whoever has more to share
    part   = for each place: version | time of each slot | settled counts | counts of each slot

Events count in the slot of the time at which their token was made, whenever they come. So a click always
meets its impression. A slot that is needed for another time is settled first. What comes later still counts
there. This module knows no token, and not what a place stands for.
"""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.calibration.counts import BINS, Counts, count

_ATTEMPTS = 100

Key = TypeVar("Key")


class Slots(NamedTuple):
    """The slots of a place: `times` [slots] in lengths of a slot, `counts` [1 + slots, BINS, 3] with those
    that are settled first.
    """

    times: NDArray[np.int64]
    counts: NDArray[np.float64]


class SlotMemory(ABC, Generic[Key]):
    """Slots of `slot_ms` for `places` in each of `parts`, one for each process; a place is that of a key.

    Raises OSError or OverflowError where there is not so much memory.
    """

    def __init__(self, parts: int, places: int, slots: int, slot_ms: int, header_words: int = 0) -> None:
        self.slot_ms = slot_ms
        header, times = places * header_words, parts * places * (1 + slots)
        shape = (parts, places, 1 + slots, BINS, 3)
        self.bytes = 8 * (header + times + math.prod(shape))
        memory = mmap.mmap(-1, self.bytes)
        self.header: NDArray[np.int64] = np.frombuffer(memory, np.int64, header).reshape(places, header_words)
        # The first word is the version of a place: odd while its process moves counts.
        self.times: NDArray[np.int64] = np.frombuffer(memory, np.int64, times, 8 * header).reshape(
            parts, places, 1 + slots
        )
        # The first of the slots holds what is settled.
        self.counts: NDArray[np.float64] = np.frombuffer(
            memory, np.float64, math.prod(shape), 8 * (header + times)
        ).reshape(shape)

    @abstractmethod
    def place(self, key: Key) -> int | None:
        """The place of a key, None if it has none."""

    def parts_of(self, place: int) -> list[int]:
        """The parts that have counts; the memory of others is not touched, and so not taken."""
        return [int(part) for part in np.flatnonzero(self.times[:, place, 0])]

    def read_part(self, part: int, place: int) -> Slots:
        """What a process has counted, whole."""
        times, counts = self.times[part, place], self.counts[part, place]
        for _ in range(_ATTEMPTS):
            version = int(times[0])
            found = Slots(times[1:].copy(), counts.copy())
            if version % 2 == 0 and version == times[0]:
                break
        return found


class SlotPart(Generic[Key]):
    """The part of this process, which alone adds to it; it goes on with what an earlier process left."""

    def __init__(self, memory: SlotMemory[Key], number: int) -> None:
        self._place = memory.place
        self._slot_ms = memory.slot_ms
        self._times, self._counts = memory.times[number], memory.counts[number]
        self._times[:, 0] += self._times[:, 0] % 2  # of a process that was killed while it moved counts

    def add(
        self,
        key: Key,
        made_ms: NDArray[np.int64],
        log_odds: NDArray[np.float32],
        is_click: NDArray[np.bool_],
    ) -> None:
        """Count events [n] of a key, if it has a place: when their tokens were made, log-odds, and types.

        The log-odds are the bundle's own.
        """
        place = self._place(key)
        if place is None:
            return
        slots = made_ms // self._slot_ms
        if len(slots) and (slots == slots[0]).all():  # as nearly always
            self._add(place, int(slots[0]), count(log_odds, is_click))
            return
        for time in np.unique(slots).tolist():
            chosen = slots == time
            self._add(place, time, count(log_odds[chosen], is_click[chosen]))

    def _add(self, place: int, time: int, counts: Counts) -> None:
        times, slots = self._times[place], self._counts[place]
        slot = 1 + time % (len(slots) - 1)
        if times[0] == 0:
            times[0] = 2
        if time < times[slot]:
            slot = 0  # nobody waits for it any more
        elif time > times[slot]:
            times[0] += 1
            slots[0] += slots[slot]
            slots[slot] = 0.0
            times[slot] = time
            times[0] += 1
        slots[slot] += counts
