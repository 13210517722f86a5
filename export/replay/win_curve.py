"""The chance that a bid wins, fitted to market prices, and the bid that gains most by it.

A curve F(b) is the share of auctions whose market price is below b. In a first-price auction a bid b for an
impression worth v gains (v - b) F(b) on average. It is largest where v = b + F(b) / F'(b), so every curve
knows which value a bid is for, and by the inverse of that the bid for a value. Reference: Zhang, Yuan & Wang,
"Optimal Real-Time Bidding for Display Advertising", KDD 2014; v is pCTR / lambda of a budget there.

It knows no policy, budget or campaign.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit, log_ndtr, ndtr

Floats = NDArray[np.float64]

QUANTILES = 512
# Bids of the table by which a value is turned into a bid, as multiples of the median price.
LOWEST, HIGHEST, STEPS = 1e-9, 1e6, 16_384
_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


class WinCurve(ABC):
    """What all curves share: values of bids, and bids for values, by logarithms so that nothing overflows."""

    median: float
    """The market price that half of the auctions are below, in the log's unit."""

    @abstractmethod
    def chance(self, bids: Floats) -> Floats:
        """F: bids [n] -> the share of auctions that each wins, [n]."""

    @abstractmethod
    def log_values(self, log_bids: Floats) -> Floats:
        """Logarithms of bids [n] -> of the values that they are best for, [n]; increasing."""

    def values(self, bids: Floats) -> Floats:
        """Bids [n] -> the values that they are best for, [n]: b + F(b) / F'(b); 0 for 0."""
        found = np.zeros(len(bids))
        positive = bids > 0
        with np.errstate(over="ignore"):
            found[positive] = np.exp(self.log_values(np.log(bids[positive])))
        return found

    def bids(self, values: Floats) -> Floats:
        """Values [n] -> the bids that gain most, [n]: the inverse of `values`, by a table."""
        log_bids, log_values = self._table
        with np.errstate(divide="ignore"):
            found = np.interp(np.log(values), log_values, log_bids)
        return np.where(values > 0, np.exp(found), 0.0)

    @cached_property
    def _table(self) -> tuple[Floats, Floats]:
        log_bids = np.log(self.median) + np.linspace(np.log(LOWEST), np.log(HIGHEST), STEPS)
        return log_bids, self.log_values(log_bids)


@dataclass(frozen=True)
class LogLogistic(WinCurve):
    """F(b) = b^k / (b^k + c^k), c being the median and k the shape."""

    median: float
    shape: float

    def chance(self, bids: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(expit(self.shape * np.log(bids / self.median)))

    def log_values(self, log_bids: Floats) -> Floats:
        # F / F' = b (1 + (b / c)^k) / k
        powers = self.shape * (log_bids - np.log(self.median))
        rest: Floats = log_bids - np.log(self.shape) + np.logaddexp(0.0, powers)
        return np.logaddexp(log_bids, rest)


@dataclass(frozen=True)
class Ortb1(LogLogistic):
    """F(b) = b / (b + c), so that the best bid for v is sqrt(c v + c^2) - c (KDD 2014)."""

    shape: float = 1.0

    def bids(self, values: Floats) -> Floats:
        c = self.median
        # The paper's form times (sqrt + c) / (sqrt + c), which does not cancel where v is small.
        bids: Floats = c * values / (np.sqrt(c * values + c * c) + c)
        return bids


@dataclass(frozen=True)
class Ortb2(LogLogistic):
    """F(b) = b^2 / (b^2 + c^2), whose best bid is the root of a cubic equation (KDD 2014)."""

    shape: float = 2.0

    def bids(self, values: Floats) -> Floats:
        # With y - 1 / y = b / c the cubic is y^3 - y^-3 = 2 v / c, so b / c = 2 sinh(asinh(v / c) / 3).
        bids: Floats = 2.0 * self.median * np.sinh(np.arcsinh(values / self.median) / 3.0)
        return bids


@dataclass(frozen=True)
class LogNormal(WinCurve):
    """The logarithm of the market price is normal, about that of the median, with `spread` as deviation."""

    median: float
    spread: float

    def _z(self, log_bids: Floats) -> Floats:
        z: Floats = (log_bids - np.log(self.median)) / self.spread
        return z

    def chance(self, bids: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(ndtr(self._z(np.log(bids))))

    def log_values(self, log_bids: Floats) -> Floats:
        # F / F' = b spread Phi(z) / phi(z), which increases with b since log Phi is concave.
        z = self._z(log_bids)
        ratio = log_ndtr(z) + 0.5 * z * z + _HALF_LOG_2PI
        rest: Floats = log_bids + np.log(self.spread) + ratio
        return np.logaddexp(log_bids, rest)


@dataclass(frozen=True)
class Fitted:
    """A curve, and how far it is off the prices' own shares: the root of the mean square."""

    curve: WinCurve
    error: float


def fit_ortb1(prices: Floats) -> Fitted:
    """The curve of ORTB1, c fitted to market prices [n]."""
    return _fit(prices, Ortb1, [_start(prices)])


def fit_ortb2(prices: Floats) -> Fitted:
    """The curve of ORTB2, c fitted to market prices [n]."""
    return _fit(prices, Ortb2, [_start(prices)])


def fit_curve(prices: Floats) -> Fitted:
    """The log-normal or log-logistic curve, whichever is nearer to the shares of market prices [n]."""
    start = [_start(prices), 1.0]
    found = (_fit(prices, LogNormal, start), _fit(prices, LogLogistic, start))
    return min(found, key=lambda one: one.error)


def _start(prices: Floats) -> float:
    positive = prices[prices > 0]
    return float(np.median(positive))


def _fit(prices: Floats, make: Callable[..., WinCurve], start: Sequence[float]) -> Fitted:
    """Positive parameters by least squares against the share of prices at their quantiles."""
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    bids = np.quantile(prices, shares)
    shares, bids = shares[bids > 0], bids[bids > 0]

    def off(logs: Floats) -> Floats:
        return make(*np.exp(logs).tolist()).chance(bids) - shares

    found = least_squares(off, np.log(start))
    return Fitted(make(*np.exp(found.x).tolist()), float(np.sqrt(np.mean(np.square(found.fun)))))
