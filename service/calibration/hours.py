"""Impressions and clicks of each arm by the hour, for those who look; it decides nothing.

Counts are of the bundles' own pCTRs, whichever bundle an arm served in that hour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.calibration.counts import BINS, Counts
from service.calibration.slots import SlotMemory
from service.errors import BadConfiguration

HOURS, HOUR_MS = 48, 3_600_000


class HourMemory(SlotMemory[str]):
    """Room for the last HOURS hours of arms, in `parts` processes. Raises BadConfiguration."""

    def __init__(self, parts: int, arms: Sequence[str]) -> None:
        self._places = {arm: place for place, arm in enumerate(arms)}
        try:
            super().__init__(parts, len(arms), HOURS, HOUR_MS)
        except (OSError, OverflowError) as error:
            raise BadConfiguration(
                f"'feedback_keys' must have memory for counts by the hour (needs {self.bytes} bytes: "
                f"{error}); start fewer workers or arms, or leave it out"
            ) from None

    def place(self, arm: str) -> int | None:
        """The place of an arm, None for one that is not served."""
        return self._places.get(arm)

    def hours(self, arm: str, now_ms: int) -> dict[int, Counts]:
        """The counts [BINS, 3] of an arm in each of the last hours with any, by the Unix hour, in order."""
        found: dict[int, Counts] = {}
        place = self.place(arm)
        if place is None:
            return found
        last = now_ms // HOUR_MS
        for part in self.parts_of(place):
            times, counts = self.read_part(part, place)
            for slot in np.flatnonzero((times > last - HOURS) & (times <= last)).tolist():
                hour = int(times[slot])
                found[hour] = found.get(hour, np.zeros((BINS, 3))) + counts[1 + slot]
        return dict(sorted(found.items()))
