"""Where the counts of sources lie in the memory of a service, and the members of a ledger that say them.

A member says all that it ever counted of one source (service.calibration.ledger). So whatever cannot go on
where it was becomes another member, which begins at nothing. It knows neither what is decided nor arms.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from service.calibration.counts import BINS, Counts
from service.calibration.memory import LiveMemory


@dataclass(frozen=True, eq=False)
class Place:
    """Where the counts of a source are, and the member that they are of, which had `base` when it began."""

    number: int
    member: str
    base: Counts


class Places:
    """The places of sources in a memory, by their numbers."""

    def __init__(self, memory: LiveMemory) -> None:
        self._memory = memory
        self._machine, self._members = secrets.token_hex(6), 0
        self._places: dict[int, Place] = {}

    def __contains__(self, source: int) -> bool:
        """Whether a source has a place."""
        return source in self._places

    def __iter__(self) -> Iterator[tuple[int, Place]]:
        """The sources with their places."""
        return iter(self._places.items())

    def get(self, source: int) -> Place | None:
        """The place of a source, None if it has none."""
        return self._places.get(source)

    def keep(self, served: Collection[int], others: Collection[int] = (), began_ms: int = 0) -> set[int]:
        """Give places to the sources that are served, then to others; those whose place is a new one.

        Any other source stays where it is until its place is taken. Of one that was forgotten, what was
        mature at `began_ms` is not said again.
        """
        kept = self._memory.keep({*served})
        if others:
            more = [source for source in others if source not in kept]
            kept = self._memory.keep({*kept, *more[: max(0, self._memory.places - len(kept))]})
        lost = [source for source, each in self._places.items() if self._memory.place(source) != each.number]
        for source in lost:
            del self._places[source]
        new = {source for source in kept if source not in self._places}
        for source in new:
            self._places[source] = self._begin(kept[source], began_ms)
        return new.union(lost)

    def forget(self, sources: Collection[int]) -> None:
        """Say no more of these sources."""
        for source in sources:
            del self._places[source]

    def begin_anew(self, until_ms: int) -> None:
        """What was mature by then is not said again, of any source."""
        for source in self._places:
            self._places[source] = self._begin(self._places[source].number, until_ms)

    def counted(self, place: Place, until_ms: int) -> Counts:
        """All that a member has counted of tokens that are mature by then."""
        return self._memory.mature(place.number, until_ms) - place.base

    def _begin(self, number: int, began_ms: int) -> Place:
        self._members += 1
        base = self._memory.mature(number, began_ms) if began_ms else np.zeros((BINS, 3))
        return Place(number, f"{self._machine}.{self._members}", base)
