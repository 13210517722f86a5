"""When overload makes the prior answer in the model's place, and how much time that may take.

A request that would be refused may be answered from the bundle's prior in its place. To read it and to answer
costs a part of what the model's answer costs; if all got that, no time would be left for the model. It knows
neither HTTP nor what a request holds.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from service.quality import DEADLINE, QUEUE
from service.scoring.predictor import Predictor

# Of all time. The model has so much less.
PRIOR_SHARE = 0.03
# What a part of an answer takes beside what is measured, whatever its size.
READING_SECONDS = 10e-6
# None takes longer: if one seems to, the process stood still, which is not to be paid for half a minute.
LONGEST_SECONDS = 0.1


class Ladder:
    """An account of time: it fills with PRIOR_SHARE of what passes, and holds `most_seconds` at most.

    One answer may overdraw it.
    """

    def __init__(self, most_seconds: float, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._most = self._credit = most_seconds
        self._filled_at = clock()

    def has_time(self) -> bool:
        """Whether one more answer by prior may be made now."""
        now = self._clock()
        self._credit = min(self._credit + PRIOR_SHARE * (now - self._filled_at), self._most)
        self._filled_at = now
        return self._credit > 0.0

    def reason(self, predictor: Predictor, rows: int, seconds: float | None, *, has_room: bool) -> str:
        """Why the prior is to answer a request of so many rows that is read now: QUEUE, DEADLINE, or empty.

        `seconds` are left of its `tmax_ms`, None: it has none. Once that has passed, nobody waits.
        It `has_room` if that is reserved already.
        """
        if not (has_room or predictor.has_room(rows)):
            return QUEUE if self.has_time() else ""
        if seconds is None or seconds < 0.0 or not predictor.takes_longer(rows, seconds):
            return ""
        if not self.has_time():
            return ""
        predictor.doubt_pace()
        return DEADLINE

    def spend(self, seconds: float) -> None:
        """An answer by prior, or a part of one, took so long."""
        self._credit -= min(seconds, LONGEST_SECONDS) + READING_SECONDS
