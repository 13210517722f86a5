"""How much more clicks vary than independent rows would: the dispersion of quasi-likelihood.

Rows of one user come in bursts and have much in common. Then clicks of a time vary by a factor more than a
binomial likelihood says, and evidence is worth as much less (Wedderburn 1974, "Quasi-likelihood functions,
generalized linear models, and the Gauss-Newton method"; McCullagh and Nelder 1989, "Generalized Linear
Models", sections 4.5 and 9.2: Pearson's chi-squared over its degrees of freedom). It knows neither time nor
corrections.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from service.calibration.counts import Evidence

# A block is long enough for chi-squared once its clicks have this variance; a part that is added is not cut.
LEAST_VARIANCE = 10.0
# Of how many pairs of blocks it is the mean, about, the latest ones most.
PAIRS = 128.0
# It begins as if so many pairs had shown none.
PRIOR_PAIRS = 8.0
# A pair that says so many times what is known by then counts as that much: it may be a shift (Huber 1964).
LARGEST = 9.0
# Where rates times their ratio are no probabilities any more.
_LEAST_SHARE = 0.05


class Stretch(NamedTuple):
    """Events in a stretch of time: how many, how many are expected, and the sum of their squared chances."""

    events: float = 0.0
    expected: float = 0.0
    squares: float = 0.0

    def plus(self, other: Stretch) -> Stretch:
        """Both together."""
        return Stretch(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))

    def variance(self, ratio: float) -> float:
        """That of the events, if each has its chance times a ratio, and they are independent."""
        mean = ratio * self.expected
        return max(mean - ratio * ratio * self.squares, _LEAST_SHARE * mean)


class DispersionRecord(msgspec.Struct, frozen=True, array_like=True):
    """All of a dispersion, to be kept or sent."""

    chi_squared: float = 0.0
    pairs: float = 0.0
    last: Stretch = Stretch()
    open: Stretch = Stretch()


class Dispersion:
    """The mean of Pearson's chi-squared of neighbouring blocks, which has one degree of freedom a pair.

    Two blocks are held against the ratio of events to expected ones of both together: what is off for long,
    and what drifts, is no dispersion, and a shift is in one pair.
    """

    def __init__(self) -> None:
        self._chi_squared = self._pairs = 0.0
        self._last, self._open = Stretch(), Stretch()

    @property
    def factor(self) -> float:
        """How many rows are worth one that is independent: 1 or more."""
        return max(1.0, (self._chi_squared + PRIOR_PAIRS) / (self._pairs + PRIOR_PAIRS))

    def add(self, block: Stretch) -> None:
        """Take what has come in a while into account."""
        self._open = self._open.plus(block)
        if self._open.variance(1.0) < LEAST_VARIANCE:
            return
        if self._last.expected > 0.0:
            weight = 1.0 - 1.0 / PAIRS
            found = min(chi_squared(self._last, self._open), LARGEST * self.factor)
            self._chi_squared = weight * self._chi_squared + found
            self._pairs = weight * self._pairs + 1.0
        self._last, self._open = self._open, Stretch()

    @property
    def record(self) -> DispersionRecord:
        """All of it."""
        return DispersionRecord(self._chi_squared, self._pairs, self._last, self._open)

    @classmethod
    def of(cls, record: DispersionRecord) -> Dispersion:
        """What was recorded. Raises ValueError for a record of something else."""
        numbers = (record.chi_squared, record.pairs, *record.last, *record.open)
        if not all(0.0 <= number < math.inf for number in numbers):
            raise ValueError(f"a dispersion must be of finite sums, 0 or more (got {numbers})")
        found = cls()
        found._chi_squared, found._pairs = record.chi_squared, record.pairs
        found._last, found._open = record.last, record.open
        return found


def chi_squared(first: Stretch, second: Stretch) -> float:
    """How much the ratios of events to expected ones differ between two blocks: by chance 1 on average."""
    total = first.expected + second.expected
    ratio = (first.events + second.events) / total
    if ratio <= 0.0:
        return 0.0
    difference = (first.events * second.expected - second.events * first.expected) / total
    ours, theirs = second.expected / total, first.expected / total
    return difference**2 / (ours**2 * first.variance(ratio) + theirs**2 * second.variance(ratio))


def stretch_of(evidence: Evidence) -> Stretch:
    """The stretch of evidence, expected by the bundle's own pCTRs."""
    pctrs = 1.0 / (1.0 + np.exp(-evidence.log_odds))
    return Stretch(
        float(evidence.clicks.sum()), float(evidence.rows @ pctrs), float(evidence.rows @ pctrs**2)
    )
