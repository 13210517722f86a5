"""How much of a thread's time is left over, and what part of it work may take that nobody waits for.

It knows neither the work nor shadows. Time is taken that the thread has run, and that it was ready to run
while others had its core: a service that is slowed by its neighbours has no time to spare either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, thread_time

# Over how much time it is measured.
WINDOW_SECONDS = 0.1
# What may be taken of what is left over, of all time at most, and of all time where nothing is left over.
SPARE_PART, MOST_SHARE, LEAST_SHARE = 0.5, 0.25, 0.005
_SCHEDULER = Path("/proc/thread-self/schedstat")
_NANOSECOND = 1e-9


class SpareTime:
    """What share of the time work may take that nobody waits for: half of what is left without it.

    The time that it took itself counts as left over; so the rest of the thread keeps as much idle time as it
    takes. The thread that works must be the one that calls. `busy` tells how long it was, in seconds.
    """

    def __init__(
        self, busy: Callable[[], float] | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._busy, self._clock = busy or busy_clock(), clock
        self._share = LEAST_SHARE
        self._spent = 0.0
        self._since: tuple[float, float] | None = None

    def spend(self, seconds: float) -> None:
        """It took so long."""
        self._spent += seconds

    def measure(self) -> float:
        """The share now, from LEAST_SHARE to MOST_SHARE."""
        now = self._clock()
        if self._since is not None and now - self._since[0] < WINDOW_SECONDS:
            return self._share
        try:
            busy = self._busy()
        except OSError:  # connections have all the files that there may be: until then it is not known
            self._share = LEAST_SHARE
            return self._share
        if self._since is not None:  # not the first time that this thread calls
            since, was_busy = self._since
            left = 1.0 - (busy - was_busy - self._spent) / (now - since)
            self._share = min(max(SPARE_PART * left, LEAST_SHARE), MOST_SHARE)
        self._since, self._spent = (now, busy), 0.0
        return self._share


def busy_clock() -> Callable[[], float]:
    """Tells how long the thread that calls has run and waited for a core, in seconds.

    How long it has run alone, where the kernel tells no more.
    """
    try:
        _scheduled_seconds()
    except (OSError, ValueError):
        return thread_time
    return _scheduled_seconds


def _scheduled_seconds() -> float:
    ran, waited, _ = _SCHEDULER.read_bytes().split()
    # A kernel that does not count has zeros there.
    return max((int(ran) + int(waited)) * _NANOSECOND, thread_time())
