"""Evidence against an arm that may be looked at at any time; it knows neither arms nor what is counted.

Each class is an *e-process*: a number that begins at 1 and that, if the hypothesis holds that nothing is
wrong, stays below 1 / alpha for ever with a chance of 1 - alpha or more, however often it is looked at and
whenever one stops (Ville's inequality). `evidence` is its logarithm. They are mixtures of likelihood ratios
over alternatives (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970). The
one-sided normal mixture of `MeanTest` is that of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", 2021. The smaller of two is an e-process of "one of both
hypotheses holds", the mean of two of "both hold" (Ramdas, Gruenwald, Vovk and Shafer, "Game-theoretic
statistics and safe anytime-valid inference", 2023).

Every block of counts is compared with that of the other arm in the same time. So neither the hour nor a share
of the traffic that changes makes a difference where there is none, as sums over all the time would (Simpson).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# How many times as much, or as little, as is tolerated: the alternatives of a mixture.
FACTORS = (1.05, 1.1, 1.2, 1.35, 1.6, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
# Variances of a normal mixture are tuned for this level.
_TUNED_FOR = 0.001


@dataclass(frozen=True)
class Block:
    """What was counted of both arms in the same time: events, and what they are out of (exposure).

    `weight`, 1 at most, is how much of it counts: less where events come in bursts. A power of a likelihood
    ratio below 1 is an e-process too, by Jensen's inequality.
    """

    events: float
    exposure: float
    control_events: float
    control_exposure: float
    weight: float = 1.0


class EProcess(Protocol):
    """An e-process."""

    def add(self, block: Block) -> None:
        """Take a block into account."""

    @property
    def evidence(self) -> float:
        """The logarithm of the e-process."""


class _Mixture:
    """The mean of e-processes, by their logarithms."""

    def __init__(self, count: int) -> None:
        self._logs: Floats = np.zeros(count)

    @property
    def evidence(self) -> float:
        """The logarithm of their mean."""
        return _mean_of(self._logs)


class RatioTest(_Mixture):
    """Hypothesis: events per exposure are at most `bound` times control's; or, if `is_below`, at least.

    Given how many events both arms have in a block, those of one are binomial (Przyborowski and Wilenski
    1940), whatever the rate is that both share. With alternatives on one side the likelihood ratio falls as
    one goes from the bound into the hypothesis, so the bound is its worst case.
    """

    def __init__(self, bound: float, *, is_below: bool = False) -> None:
        factors = np.array(FACTORS)
        self._bound = bound
        self._ratios = bound / factors if is_below else bound * factors
        super().__init__(len(factors))

    def add(self, block: Block) -> None:
        """Take a block into account; one in which an arm was exposed to nothing says nothing."""
        if block.exposure <= 0.0 or block.control_exposure <= 0.0:
            return
        odds, bound = block.exposure / block.control_exposure, self._bound
        ours = np.log(self._ratios / bound) + np.log((1.0 + bound * odds) / (1.0 + self._ratios * odds))
        theirs = np.log((1.0 + bound * odds) / (1.0 + self._ratios * odds))
        self._logs += block.weight * (block.events * ours + block.control_events * theirs)


class LevelTest(_Mixture):
    """Hypothesis: the expected events are at most `level` times the exposure; or, if `is_below`, at least.

    The likelihood is Poisson's, whose moments bound those of independent events that are each there or not.
    """

    def __init__(self, level: float, *, is_below: bool = False) -> None:
        factors = np.array(FACTORS)
        self._level = level
        self._ratios = 1.0 / factors if is_below else factors
        super().__init__(len(factors))

    def add(self, block: Block) -> None:
        """Take a block into account."""
        expected = self._level * block.exposure
        self._logs += block.weight * (block.events * np.log(self._ratios) - expected * (self._ratios - 1.0))


class ShareTest(_Mixture):
    """Hypothesis: each exposure is an event with a chance of at most `share`; the likelihood is binomial."""

    def __init__(self, share: float) -> None:
        odds = share / (1.0 - share) * np.array([*FACTORS, 1_000.0])
        shares = odds / (1.0 + odds)
        self._event, self._none = np.log(shares / share), np.log((1.0 - shares) / (1.0 - share))
        super().__init__(len(odds))

    def add(self, block: Block) -> None:
        """Take a block into account."""
        others = block.exposure - block.events
        self._logs += block.weight * (block.events * self._event + others * self._none)


class _Several:
    """Tests of the same blocks."""

    def __init__(self, *tests: EProcess) -> None:
        self._tests = tests

    def add(self, block: Block) -> None:
        """Take a block into account."""
        for test in self._tests:
            test.add(block)


class Both(_Several):
    """Hypothesis: that of one of these tests holds, or of several. All must speak against an arm."""

    @property
    def evidence(self) -> float:
        """The smallest of them."""
        return min(test.evidence for test in self._tests)


class Either(_Several):
    """Hypothesis: those of all these tests hold. One that speaks clearly is enough."""

    @property
    def evidence(self) -> float:
        """The logarithm of their mean."""
        return _mean_of(np.array([test.evidence for test in self._tests]))


class Renewed:
    """A test of all the time, and one that begins anew with each `renew`: what begins late is found as soon.

    The n-th of these has 1 / (n (n + 1)) of one half of the level, which add up to that half.
    """

    def __init__(self, make: Callable[[], EProcess]) -> None:
        self._make = make
        self._whole, self._recent = make(), make()
        self._renewals = 1

    def add(self, block: Block) -> None:
        """Take a block into account."""
        self._whole.add(block)
        self._recent.add(block)

    def renew(self) -> None:
        """Begin one anew."""
        self._recent = self._make()
        self._renewals += 1

    @property
    def evidence(self) -> float:
        """That of the one that says more, as much of the level as it has."""
        price = math.log(self._renewals * (self._renewals + 1))
        return max(self._whole.evidence, self._recent.evidence - price) - math.log(2.0)


class MeanTest:
    """Hypothesis: the mean of an arm is at most that of control and a `margin`, for values of any kind.

    Blocks are weighted by what they know of the difference, which depends on how many values they have and
    not on the values. The sum is nearly normal, with variances that are estimated: of all tests here this is
    the one that holds only as numbers grow. Who reads it asks for a least number of values.
    """

    def __init__(self, typical: float) -> None:
        """It is tuned to say most once either arm has `typical` values."""
        level = 2.0 * math.log(1.0 / _TUNED_FOR)
        self._mixed = 0.5 * typical / (level + math.log(1.0 + level))
        self._sum = self._ours = self._theirs = 0.0

    def add(self, difference: float, values: float, control_values: float) -> None:
        """A block: the mean less that of control and the margin, and how many values both means are of."""
        if values > 0.0 and control_values > 0.0:
            weight = values * control_values / (values + control_values)
            self._sum += weight * difference
            self._ours += weight * weight / values
            self._theirs += weight * weight / control_values

    def evidence_at(self, variance: float, control_variance: float) -> float:
        """The logarithm, for values of these variances."""
        of_sum = variance * self._ours + control_variance * self._theirs
        if not of_sum > 0.0:
            return 0.0
        mixed = 0.5 * (variance + control_variance) * self._mixed
        reach = self._sum / math.sqrt(of_sum + mixed)
        return (
            math.log(2.0)
            + 0.5 * math.log(mixed / (of_sum + mixed))
            + 0.5 * reach * reach
            + _log_of_normal_share(reach)
        )


def _mean_of(evidences: Floats) -> float:
    """The logarithm of the mean of e-processes with these logarithms."""
    largest = float(evidences.max())
    return largest + math.log(float(np.exp(evidences - largest).mean()))


def _log_of_normal_share(value: float) -> float:
    """The logarithm of the standard normal distribution's share below a value."""
    share = 0.5 * math.erfc(-value / math.sqrt(2.0))
    # Far below, by its asymptote.
    if share > 0.0:
        return math.log(share)
    return -0.5 * value * value - math.log(-value * math.sqrt(2.0 * math.pi))
