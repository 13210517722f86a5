"""What is remembered of counts: all since the world changed, the older the less. It knows no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec
import numpy as np

from service.calibration.counts import (
    BINS,
    CLICKS,
    PREDICTED,
    Counts,
    Evidence,
    bytes_of,
    counts_of,
    evidence_of,
)
from service.calibration.fit import Correction, pcoc_interval, predicted_clicks

# Standard deviations by which what is newer contradicts what is older; at each period many cuts are tried.
CONTRADICTION = 4.0
# Buckets of each size before two of them become one of twice the size.
BUCKETS_A_SIZE = 5


@dataclass
class _Bucket:
    """Counts of so many periods; `squares` is the sum over clicks of their squared weights."""

    counts: Counts
    squares: float
    periods: int

    @property
    def clicks(self) -> float:
        return float(self.counts[:, CLICKS].sum())

    @property
    def predicted(self) -> float:
        """By the bundle's own pCTRs."""
        return float(self.counts[:, PREDICTED].sum())


class BucketRecord(msgspec.Struct, frozen=True, array_like=True):
    """A bucket, to be kept or sent."""

    counts: bytes
    squares: float
    periods: int


class RecentCounts:
    """Counts whose weight halves every so often, in a window that adapts (Bifet and Gavalda 2007, ADWIN).

    The window is kept in buckets, the older the longer. When the newer ones and the older ones have different
    PCOCs, whichever way it is cut, the older ones are forgotten. Neither side has fewer than `min_clicks`.
    Clicks are worth as much less as a `dispersion` says (service.calibration.dispersion).
    """

    def __init__(self, half_life_seconds: float, min_clicks: int) -> None:
        self._half_life = half_life_seconds
        self._min_clicks = min_clicks
        self._buckets: list[_Bucket] = []  # the newest first
        self._total = _Bucket(np.zeros((BINS, 3)), 0.0, 0)

    def step(self, added: Counts, seconds: float, dispersion: float = 1.0) -> None:
        """Let so much time pass, then add counts."""
        weight = 0.5 ** (seconds / self._half_life)
        for bucket in self._buckets:
            bucket.counts *= weight
            bucket.squares *= weight**2
        counts = np.maximum(added, 0.0)
        self._buckets.insert(0, _Bucket(counts, float(counts[:, CLICKS].sum()), 1))
        self._forget(dispersion)
        self._merge()
        self._add_up()

    @property
    def records(self) -> list[BucketRecord]:
        """All of its buckets."""
        return [BucketRecord(bytes_of(each.counts), each.squares, each.periods) for each in self._buckets]

    def restore(self, records: Sequence[BucketRecord]) -> None:
        """Be what was recorded. Raises ValueError for a record of something else."""
        self._buckets = [_Bucket(counts_of(each.counts), each.squares, each.periods) for each in records]
        if self._buckets:
            self._add_up()

    def _add_up(self) -> None:
        self._total = _Bucket(
            np.sum([bucket.counts for bucket in self._buckets], axis=0),
            sum(bucket.squares for bucket in self._buckets),
            0,
        )

    @property
    def evidence(self) -> Evidence:
        """All of it by bins."""
        return evidence_of(self._total.counts)

    @property
    def clicks(self) -> float:
        """How many clicks of weight 1 vary as much as these (Kish 1965, the effective sample size)."""
        return _effective(self._total.clicks, self._total.squares)

    def pcoc(self, correction: Correction) -> float:
        """Predicted over observed clicks; nan without clicks."""
        clicks = self._total.clicks
        return predicted_clicks(self.evidence, correction) / clicks if clicks > 0.0 else math.nan

    def excludes_one(self, correction: Correction, dispersion: float = 1.0) -> bool:
        """Whether PCOC is not 1, with a confidence of 95 %."""
        clicks = self.clicks / dispersion
        if clicks <= 0.0:
            return False
        low, high = pcoc_interval(self.pcoc(correction) * clicks, clicks)
        return not low <= 1.0 <= high

    def _forget(self, dispersion: float) -> None:
        """Drop the older side of the cut whose sides contradict each other most, if they do."""
        sums = np.array([(bucket.clicks, bucket.squares, bucket.predicted) for bucket in self._buckets])
        newer = [*accumulate(sums)]
        most, kept = CONTRADICTION, len(newer)
        for cut, new in enumerate(newer[:-1], start=1):
            difference = self._difference(new, newer[-1] - new, dispersion)
            if difference > most:
                most, kept = difference, cut
        del self._buckets[kept:]

    def _difference(self, new: Counts, old: Counts, dispersion: float) -> float:
        """Standard deviations by which the PCOCs of two sides differ: clicks, squares, predicted of each."""
        effective = _effective(*new[:2]) / dispersion, _effective(*old[:2]) / dispersion
        if min(effective) < self._min_clicks or min(new[2], old[2]) <= 0.0:
            return 0.0
        ratio = float(new[0] / new[2] / (old[0] / old[2]))
        return abs(math.log(ratio)) / math.sqrt(1.0 / effective[0] + 1.0 / effective[1])

    def _merge(self) -> None:
        """Where there are too many buckets of a size, the two oldest become one."""
        start = 0
        while start < len(self._buckets):
            periods = self._buckets[start].periods
            stop = start
            while stop < len(self._buckets) and self._buckets[stop].periods == periods:
                stop += 1
            if stop - start > BUCKETS_A_SIZE:
                older, newer = self._buckets.pop(stop - 1), self._buckets[stop - 2]
                newer.counts = newer.counts + older.counts
                newer.squares += older.squares
                newer.periods += older.periods
                stop -= 2
            start = stop


def _effective(weight: float, squares: float) -> float:
    return weight**2 / squares if squares > 0.0 else 0.0
