"""What shadows said of candidates, by the hash of their tokens, in memory that all processes share.

Whichever process answered, any other may get the events. So the process that has scored a request for a
shadow puts the candidates of its answer here, and whoever gets an event looks for them. Nothing is locked:

    slot = token's hash ^ second word ^ third word | log-odds | seconds, number of the shadow, what happened

A slot that two processes write to at once has a first word that is no longer that of any token, and is lost
(Hyatt and Mann 2002, "A lockless transposition-table implementation for parallel search").

A slot stays for the whole window, in which all events of its token find it. Where all slots of a token's
bucket are taken, the token is left out: chance decides which, whatever happens to it. This module knows no
token and no arm.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import BadConfiguration

# Slots of a bucket, which are looked at together.
WAYS = 8
# What has happened to a candidate.
SHOWN, CLICKED = 1, 2
_KEY, _LOG_ODDS, _REST = range(3)
# The third word: Unix seconds, the number of the shadow, flags.
_SECONDS_SHIFT, _NUMBER_SHIFT = np.uint64(32), np.uint64(16)
_LOW = np.uint64(0xFFFF)

Hashes = NDArray[np.uint64]


class Marked(NamedTuple):
    """What shadows said of candidates whose events were looked for [n of them and of their shadows].

    `events` are the places of the events, `numbers` the shadows', `before` what had happened by then.
    """

    events: NDArray[np.intp]
    numbers: NDArray[np.int64]
    log_odds: NDArray[np.float64]
    before: NDArray[np.int64]


class ShadowTable:
    """Room for `slots` candidates, each kept for `window_seconds`. Raises BadConfiguration.

    Memory that is never written to is not taken.
    """

    def __init__(self, slots: int, window_seconds: int) -> None:
        buckets = 1 << max(0, (slots - 1).bit_length() - WAYS.bit_length() + 1)
        size = 8 * (1 + 3 * WAYS * buckets)
        try:
            memory = mmap.mmap(-1, size)
        except (OSError, OverflowError) as error:
            raise BadConfiguration(
                f"'max_attributed_events' must be so many that there is memory for as many candidates of "
                f"shadows (got {slots}, for which {size} bytes are needed: {error}); state fewer"
            ) from None
        words = np.frombuffer(memory, np.uint64)
        self._is_used = words[:1]
        self._slots = words[1:].reshape(buckets, WAYS, 3)
        self._mask = np.uint64(buckets - 1)
        self._window_seconds = window_seconds

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever put into it."""
        return not self._is_used[0]

    def put(self, hashes: Hashes, log_odds: NDArray[np.float64], shadow: int, now: int) -> int:
        """Put what a shadow, by its number, said [n] of tokens [n] at `now`, Unix seconds; how many fit."""
        self._is_used[0] = 1
        buckets = (hashes & self._mask).astype(np.intp)
        seconds = (self._slots[buckets, :, _REST] >> _SECONDS_SHIFT).astype(np.int64)
        is_free = np.abs(now - seconds) > self._window_seconds  # or the clock was set back far
        turns = _turns(buckets)
        fits = turns < is_free.sum(axis=1)
        free_first = np.argsort(~is_free[fits], axis=1, kind="stable")
        buckets, ways = buckets[fits], free_first[np.arange(len(free_first)), turns[fits]]
        values = np.ascontiguousarray(log_odds[fits], np.float64).view(np.uint64)
        rest = np.full(len(values), now << 32 | shadow << 16, np.uint64)
        self._slots[buckets, ways, _KEY] = hashes[fits] ^ values ^ rest
        self._slots[buckets, ways, _LOG_ODDS] = values
        self._slots[buckets, ways, _REST] = rest
        return len(values)

    def mark(self, hashes: Hashes, happened: int, now: int) -> Marked:
        """Find the candidates of events [n], and note that it `happened` to them: SHOWN or CLICKED."""
        buckets = (hashes & self._mask).astype(np.intp)
        slots = self._slots[buckets]
        found = slots[..., _KEY] ^ slots[..., _LOG_ODDS] ^ slots[..., _REST]
        seconds = (slots[..., _REST] >> _SECONDS_SHIFT).astype(np.int64)
        is_it = (found == hashes[:, None]) & (np.abs(now - seconds) <= self._window_seconds)
        events, ways = np.nonzero(is_it)
        chosen = slots[events, ways]
        rest = chosen[:, _REST]
        marked = rest | np.uint64(happened)
        self._slots[buckets[events], ways, _KEY] ^= rest ^ marked
        self._slots[buckets[events], ways, _REST] = marked
        return Marked(
            events,
            (rest >> _NUMBER_SHIFT & _LOW).astype(np.int64),
            np.ascontiguousarray(chosen[:, _LOG_ODDS]).view(np.float64),
            (rest & _LOW).astype(np.int64),
        )


def _turns(buckets: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of each bucket [n], how many equal ones are before it."""
    order = np.argsort(buckets, kind="stable")
    ordered = buckets[order]
    places = np.arange(len(buckets))
    is_first = np.ones(len(buckets), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    turns = np.empty(len(buckets), np.intp)
    turns[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return turns
