"""Corrections as they are served: the revision of each bundle, as the deciding process has written it."""

from __future__ import annotations

from dataclasses import dataclass

from service.calibration.fit import NONE, Correction
from service.calibration.memory import LiveMemory, LiveState


@dataclass(frozen=True)
class Revision:
    """A correction, and its number in tokens."""

    number: int
    correction: Correction


class Revisions:
    """The revisions of a memory, by the numbers of sources."""

    def __init__(self, memory: LiveMemory) -> None:
        self._memory = memory

    def state(self, source: int) -> LiveState:
        """What is decided; the state of a source without a place is that of the beginning."""
        place = self._memory.place(source)
        return LiveState() if place is None else self._memory.read(place)

    def revision(self, source: int) -> Revision | None:
        """What corrects the pCTRs of a source; None: nothing does."""
        state = self.state(source)
        correction = Correction(state.intercept, state.slope)
        return None if correction == NONE else Revision(state.revision, correction)
