"""What live calibration learns from and what is decided, shared by all processes of a service.

Counts lie in slots of time (service.calibration.slots). One process alone decides: it reads all parts and
writes corrections. A bundle of an arm has a place, by the number of its source in tokens:

    header = number, version, revision, ..., turn of each place

A slot is mature, its clicks as complete as they will be, once the click window has passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.calibration.counts import BINS, Counts
from service.calibration.slots import SlotMemory
from service.errors import BadConfiguration

# Slots last for two click windows, and those of the shortest longer than clocks of machines may differ by.
SLOTS, SLOTS_A_WINDOW = 32, 16
MIN_SLOT_MS = 4_000
_HEADER_WORDS = 16
# The words of a place that hold its state, and the one that says when its source was last to be kept: higher
# is later.
_STATE = slice(2, 10)
_TURN = _STATE.stop
_ATTEMPTS = 100


@dataclass(frozen=True)
class LiveState:
    """What is served, or would be, for a bundle of an arm, and why.

    Clicks are those that the evidence is worth by now; the PCOCs are of the bundle's own pCTRs and of the
    corrected ones. nan without evidence. Frozen, it changes by commands alone. Where rows are not
    independent, as many as `dispersion` says are worth one that is.
    """

    revision: int = 0
    intercept: float = 0.0
    slope: float = 1.0
    clicks: float = 0.0
    pcoc_bundle: float = math.nan
    pcoc_live: float = math.nan
    is_frozen: bool = False
    dispersion: float = 1.0

    @property
    def pcocs(self) -> tuple[float | None, float | None]:
        """Both PCOCs, None without evidence, for what has no nan, as JSON."""
        bundle, live = (None if math.isnan(each) else each for each in (self.pcoc_bundle, self.pcoc_live))
        return bundle, live


class LiveMemory(SlotMemory[int]):
    """Room for `places` bundles and `parts` processes. Raises BadConfiguration where memory is short."""

    def __init__(self, parts: int, places: int, click_window_seconds: int) -> None:
        self.places = places
        self.window_ms = 1000 * click_window_seconds
        slot_ms = max(MIN_SLOT_MS, math.ceil(self.window_ms / SLOTS_A_WINDOW))
        try:
            super().__init__(parts, places, SLOTS, slot_ms, _HEADER_WORDS)
        except (OSError, OverflowError) as error:
            raise BadConfiguration(
                f"'live_calibration' must have memory for its counts (needs {self.bytes} bytes: {error}); "
                "start fewer workers or arms, or none of it"
            ) from None
        self._words, self._states = self.header, self.header.view(np.float64)

    def place(self, number: int) -> int | None:
        """The place of a source, None if it has none."""
        found = np.flatnonzero(self._words[:, 0] == number + 1)
        return int(found[0]) if len(found) else None

    def keep(self, numbers: set[int]) -> dict[int, int]:
        """Give each source a place, a new one that of those that are not kept; the places of all.

        Without room a source has none. Only the process that decides calls it.
        """
        held = {number: place for number in numbers if (place := self.place(number)) is not None}
        free = [place for place in range(len(self._words)) if place not in held.values()]
        # What was kept last is taken last: events of its tokens may still come, and so may the bundle itself.
        free.sort(key=lambda place: int(self._words[place, _TURN]))
        for number, place in zip(sorted(numbers - held.keys()), free, strict=False):
            self._words[place, 0] = 0
            for part in self.parts_of(place):
                self.counts[part, place] = 0.0
            self.write(place, LiveState())
            self._words[place, 0] = number + 1
            held[number] = place
        turn = self._words[:, _TURN].max() + 1
        for place in held.values():
            self._words[place, _TURN] = turn
        return held

    def write(self, place: int, state: LiveState) -> None:
        """Let all processes know what is decided."""
        words = self._words[place]
        words[1] += 1
        self._states[place, _STATE] = (
            state.revision,
            state.intercept,
            state.slope,
            state.clicks,
            state.pcoc_bundle,
            state.pcoc_live,
            state.is_frozen,
            state.dispersion,
        )
        words[1] += 1

    def read(self, place: int) -> LiveState:
        """What is decided."""
        found = self._states[place, _STATE].tolist()
        for _ in range(_ATTEMPTS):
            version = int(self._words[place, 1])
            found = self._states[place, _STATE].tolist()
            if version % 2 == 0 and version == self._words[place, 1]:
                break
        revision, intercept, slope, clicks, pcoc_bundle, pcoc_live, is_frozen, dispersion = found
        return LiveState(
            *(int(revision), intercept, slope, clicks, pcoc_bundle, pcoc_live, bool(is_frozen), dispersion)
        )

    def matured_ms(self, made_ms: int) -> int:
        """When all that was counted of tokens made by then is mature, and nothing of later slots."""
        return (made_ms // self.slot_ms + 1) * self.slot_ms + self.window_ms

    def mature(self, place: int, now_ms: int) -> Counts:
        """All that was ever counted of slots that are mature, over all processes."""
        return sum(
            (self._mature_of(part, place, now_ms) for part in self.parts_of(place)), np.zeros((BINS, 3))
        )

    def last_mature(self, now_ms: int) -> int:
        """The number of the last slot that is mature; slots count up with time."""
        return (now_ms - self.window_ms) // self.slot_ms - 1

    def in_slot(self, place: int, slot: int) -> Counts:
        """What all processes have counted of tokens that were made in a slot, unless it is settled."""
        at = 1 + slot % SLOTS
        parts = [part for part in self.parts_of(place) if self.times[part, place, at] == slot]
        return sum((self.counts[part, place, at] for part in parts), np.zeros((BINS, 3)))

    def _mature_of(self, part: int, place: int, now_ms: int) -> Counts:
        times, counts = self.read_part(part, place)
        is_mature = (times + 1) * self.slot_ms + self.window_ms <= now_ms
        found: Counts = counts[0] + counts[1:][is_mature].sum(axis=0)
        return found
