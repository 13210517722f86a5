"""How long a batch takes, by its rows, from the batches of late; it knows no queue and no deadline."""

from __future__ import annotations

# A batch counts as much as so many later ones.
KEPT_BATCHES = 16
# No batch takes longer: if one seems to, the process stood still.
LONGEST_SECONDS = 0.1
# What each decision against a batch takes off, so that what is seldom measured is tried again.
DOUBT = 1 / 256


class Pace:
    """Seconds a row: a decaying mean of seconds over one of rows, nothing before the first batch."""

    __slots__ = ("_rows", "_seconds")

    def __init__(self) -> None:
        self._seconds = self._rows = 0.0

    def count(self, rows: int, seconds: float) -> None:
        """A batch of so many rows has run."""
        self._seconds += (min(seconds, LONGEST_SECONDS) - self._seconds) / KEPT_BATCHES
        self._rows += (rows - self._rows) / KEPT_BATCHES

    def expected(self, rows: int) -> float:
        """How long so many rows will probably take, seconds."""
        return rows * self._seconds / self._rows if self._rows else 0.0

    def doubt(self) -> None:
        """Rows were not run because they would take too long: believe that a little less.

        Else one slow batch could be the last that is ever measured.
        """
        self._seconds *= 1.0 - DOUBT
