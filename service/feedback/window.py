"""Which events were counted before, in any process: two generations of fingerprints by their tokens' time.

It knows neither tokens nor what is counted.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from service.feedback.memory import BUSY, CLEARED, ERA, NEWEST, PREVIOUS_START, TABLES, USED, EventMemory

# So many slots of the table that is used next are cleared with each call: nobody waits for all of it.
CLEARED_AT_ONCE = 1 << 15
# A table of the generation before takes what comes late, up to this part of its slots.
MOST_USED = 7 / 8
_TABLE_BITS = 2
_CLICK_BITS = np.uint64(0x9E37_79B9_7F4A_7C15)


class Found(IntEnum):
    """What an event is to the window."""

    NEW = 0
    AGAIN = 1
    TOO_OLD = 2
    NO_ROOM = 3


class EventWindow:
    """Events count once within `window_ms` of the time of their token.

    A token belongs to the current generation if it was made since that began, else to the one before, or it
    is too old. So whether an event comes first or again is exact for as long as it is taken at all. When a
    generation has lasted for the window, or its table is full, the next one begins. The third table is
    cleared meanwhile. A table that fills up early shortens the time for which tokens are taken: `seconds`.
    """

    def __init__(self, memory: EventMemory, window_ms: int) -> None:
        self._memory = memory
        self._header, self._tables = memory.header, memory.tables
        self._window_ms = window_ms

    def oldest_ms(self, now: int) -> int:
        """Tokens that were made before this time are too old."""
        return max(int(self._header[PREVIOUS_START]), now - self._window_ms)

    def seconds(self, now: int) -> float:
        """How old a token may be now."""
        return 1e-3 * max(0, now - self.oldest_ms(now))

    def add(
        self, fingerprints: NDArray[np.uint64], made_ms: NDArray[np.int64], now: int
    ) -> NDArray[np.uint8]:
        """Add fingerprints [n] of tokens made then [n]: what each of them is [n]. Raises BlockingIOError.

        There are at most half as many as slots. A fingerprint has 64 bits that nobody can choose.
        """
        found = np.full(len(fingerprints), Found.TOO_OLD, np.uint8)
        with self._memory.locked():
            if self._header[BUSY]:
                self._count_anew()
            self._header[BUSY] = 1
            self._turn(now, len(fingerprints))
            self._clear(CLEARED_AT_ONCE)
            if len(made_ms):
                self._header[NEWEST] = max(int(self._header[NEWEST]), int(made_ms.max()))
            table, start = self._era
            is_current = made_ms >= start
            is_previous = ~is_current & (made_ms >= self.oldest_ms(now))
            for number, chosen in ((table, is_current), ((table - 1) % TABLES, is_previous)):
                if chosen.any():
                    found[chosen] = self._add_to(number, fingerprints[chosen])
            self._header[BUSY] = 0
        return found

    def refuse_before(self, made_ms: int) -> None:
        """Tokens of before are too old: which were counted is not known. Call it before events come."""
        self._header[PREVIOUS_START] = max(int(self._header[PREVIOUS_START]), made_ms)

    @property
    def _era(self) -> tuple[int, int]:
        """The table of the current generation, and since when it is that."""
        era = int(self._header[ERA])
        return era & (1 << _TABLE_BITS) - 1, era >> _TABLE_BITS

    def _turn(self, now: int, count: int) -> None:
        """Begin the next generation if it is time for that, or the table has no room for `count` more."""
        table, start = self._era
        is_full = int(self._header[USED + table]) + count > self._memory.slots // 2
        if now - start < self._window_ms and not is_full:
            return
        self._clear(self._memory.slots)
        following = (table + 1) % TABLES
        self._header[USED + following] = 0
        # Whoever dies between two of these lines leaves a window that is too short, and no event that counts
        # twice.
        self._header[PREVIOUS_START] = start
        # Not before a token that is in the table already: the clocks of machines differ.
        self._header[ERA] = max(now, int(self._header[NEWEST]) + 1) << _TABLE_BITS | following
        self._header[CLEARED] = 0

    def _clear(self, slots: int) -> None:
        """Clear so many slots of the table that is used next."""
        start = int(self._header[CLEARED])
        if start < self._memory.slots:
            stop = min(start + slots, self._memory.slots)
            self._tables[(self._era[0] + 1) % TABLES, start:stop] = 0
            self._header[CLEARED] = stop

    def _count_anew(self) -> None:
        """After a process has died within `add`: what it had added stays."""
        for number in range(TABLES):
            self._header[USED + number] = np.count_nonzero(self._tables[number])
        self._header[CLEARED] = 0

    def _add_to(self, number: int, fingerprints: NDArray[np.uint64]) -> NDArray[np.uint8]:
        used = int(self._header[USED + number])
        if used + len(fingerprints) > MOST_USED * self._memory.slots:
            return np.full(len(fingerprints), Found.NO_ROOM, np.uint8)
        once, first = np.unique(np.maximum(fingerprints, 1), return_index=True)  # 0 is a free slot
        is_new = add_to_table(self._tables[number], once)
        self._header[USED + number] = used + np.count_nonzero(is_new)
        found = np.full(len(fingerprints), Found.AGAIN, np.uint8)
        found[first[is_new]] = Found.NEW
        return found


def fingerprints_of(hashes: NDArray[np.uint64], is_click: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """The fingerprints [n] of events with tokens of these hashes [n]: a click's is not its impression's."""
    return hashes ^ np.where(is_click, _CLICK_BITS, np.uint64(0))


def add_to_table(table: NDArray[np.uint64], fingerprints: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Add fingerprints [n], each once and not 0, to a table with free slots; which were not there [n].

    Open addressing with linear probing (Knuth, vol. 3, section 6.4, Algorithm L), all of them side by side.
    """
    last = len(table) - 1
    is_new = np.zeros(len(fingerprints), bool)
    left = np.arange(len(fingerprints))
    at = (fingerprints & np.uint64(last)).astype(np.int64)
    while len(left):
        wanted = fingerprints[left]
        is_free = table[at] == 0
        table[at[is_free]] = wanted[is_free]  # of several for one slot, one stays
        is_there = table[at] == wanted
        is_new[left[is_there & is_free]] = True
        left, at = left[~is_there], (at[~is_there] + 1) & last
    return is_new
