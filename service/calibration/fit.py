"""A correction of log-odds from evidence, and how good one is; it knows neither time nor arms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.calibration.counts import Evidence

# Standard deviations of the prior: of the shift of the log-odds at their mean, and of the slope around 1.
SHIFT_DEVIATION, SLOPE_DEVIATION = 0.5, 0.1
MIN_SLOPE = 0.2
_STEPS, _HALVINGS, _TOLERANCE = 50, 30, 1e-10
# A request is so small that its time goes into calls, and numpy converts a number longer than an array [].
_ONE, _MAX_EXPONENT = np.array(1.0), np.array(700.0)
# Of the standard normal distribution, for intervals of 95 %.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Correction:
    """Log-odds z of a bundle's pCTR become intercept + slope * z. The slope is above 0: ranks stay."""

    intercept: float = 0.0
    slope: float = 1.0

    def log_odds(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Corrected log-odds [n]."""
        return self.intercept + self.slope * log_odds

    def pctrs(
        self,
        pctrs: NDArray[np.float64],
        low: float | NDArray[np.float64],
        high: float | NDArray[np.float64],
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Corrected pCTRs [n] of the bundle's own [n], from `low` to `high`; nan stays nan.

        Each depends only on its own pCTR. They are written to `out` [n] if it is given. Bounds are fastest as
        arrays [].
        """
        slope, intercept = self._negated
        # As in the calibrator: exp overflows above 709.
        exponents = np.minimum(slope * np.log(pctrs / (_ONE - pctrs)) + intercept, _MAX_EXPONENT)
        probabilities = _ONE / (_ONE + np.exp(exponents))
        corrected: NDArray[np.float64] = np.minimum(np.maximum(probabilities, low), high, out=out)
        return corrected

    @cached_property
    def _negated(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slope and intercept of the exponents, which are negative log-odds."""
        return np.array(-self.slope), np.array(-self.intercept)

    def towards(self, other: Correction, share: float) -> Correction:
        """The one that lies at a `share` of the way to the `other`."""
        return Correction(
            self.intercept + share * (other.intercept - self.intercept),
            self.slope + share * (other.slope - self.slope),
        )


NONE = Correction()


def fit(evidence: Evidence) -> Correction:
    """The most probable correction: Bayesian logistic regression of clicks on the log-odds.

    The mode of the posterior, as in the Laplace approximation (Bishop 2006, Pattern Recognition and Machine
    Learning, sections 4.3.3 and 4.5), found by Newton's method; the two parameters are those of Platt (1999).
    Gaussian priors draw the shift at the mean log-odds to 0 and the slope to 1: without evidence it is NONE.
    """
    rows = evidence.rows
    total = float(rows.sum())
    if total <= 0.0:
        return NONE
    mean = float(rows @ evidence.log_odds) / total
    centred = evidence.log_odds - mean
    point = _mode(evidence, centred, np.zeros(2), is_free=(True, True))
    if 1.0 + point[1] < MIN_SLOPE:
        # The objective is convex, so the best point within the bound lies on it.
        point = _mode(evidence, centred, np.array([0.0, MIN_SLOPE - 1.0]), is_free=(True, False))
    shift, steeper = point.tolist()
    return Correction(shift - steeper * mean, 1.0 + steeper)


def loss(evidence: Evidence, correction: Correction) -> float:
    """LogLoss of all rows, a sum in nats; the difference of two is a logarithm of a likelihood ratio."""
    return _loss(evidence, correction.log_odds(evidence.log_odds))


def predicted_clicks(evidence: Evidence, correction: Correction) -> float:
    """How many clicks the corrected pCTRs predict."""
    exponents = np.minimum(-correction.log_odds(evidence.log_odds), 700.0)
    return float((evidence.rows / (1.0 + np.exp(exponents))).sum())


def pcoc_interval(predicted: float, clicks: float) -> tuple[float, float]:
    """95 % of PCOC, predicted over observed clicks, if clicks are Poisson; the upper end may be inf.

    Byar's approximation to the exact interval (Breslow and Day 1987, Statistical Methods in Cancer Research
    II, equation 2.13). `clicks` may be a fraction: what is left of clicks whose weight has decayed.
    """
    low = 0.0
    if clicks > 0.0:
        low = clicks * max(0.0, 1.0 - 1.0 / (9.0 * clicks) - Z_95 / (3.0 * math.sqrt(clicks))) ** 3
    more = clicks + 1.0
    high = more * (1.0 - 1.0 / (9.0 * more) + Z_95 / (3.0 * math.sqrt(more))) ** 3
    return predicted / high, predicted / low if low > 0.0 else math.inf


def _loss(evidence: Evidence, log_odds: NDArray[np.float64]) -> float:
    return float(evidence.rows @ np.logaddexp(0.0, log_odds) - evidence.clicks @ log_odds)


def _mode(
    evidence: Evidence, centred: NDArray[np.float64], start: NDArray[np.float64], is_free: tuple[bool, bool]
) -> NDArray[np.float64]:
    """Shift and slope - 1 that minimise the loss and the priors' penalty, of which only some are free."""
    precisions = np.array([SHIFT_DEVIATION, SLOPE_DEVIATION]) ** -2.0
    free = np.flatnonzero(is_free)
    design = np.stack([np.ones_like(centred), centred])

    def objective(point: NDArray[np.float64]) -> float:
        return _loss(evidence, evidence.log_odds + point @ design) + float(0.5 * precisions @ point**2)

    point, value = start, objective(start)
    for _ in range(_STEPS):
        exponents = np.minimum(-(evidence.log_odds + point @ design), 700.0)
        pctrs = 1.0 / (1.0 + np.exp(exponents))
        gradient = design @ (evidence.rows * pctrs - evidence.clicks) + precisions * point
        hessian = (design * (evidence.rows * pctrs * (1.0 - pctrs))) @ design.T + np.diag(precisions)
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        for _ in range(_HALVINGS):  # far from the mode a whole step may go too far
            following = point - step
            found = objective(following)
            if found <= value:
                break
            step = 0.5 * step
        else:
            return point
        gain, point, value = value - found, following, found
        if gain <= _TOLERANCE * (1.0 + abs(value)):
            return point
    return point
