"""What the next window of a log will lack, of the log-odds that a model gives: from all windows so far.

It knows offsets and their noise, neither graphs nor calibrators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

# Standard deviations in log-odds: of the level at the start; of what the model's own fit takes from training
# rows and not from later ones; of a step from one window to the next, and of what a window has to itself.
START, OVERFIT = 1.0, 0.1
DEVIATIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# The chance, before the log is seen, that the level goes nowhere.
STILL = 0.9


class Window(msgspec.Struct, frozen=True):
    """A window's labels against the predictions: `offset` is what the logits lack, `variance` its noise."""

    part: str
    rows: int
    clicks: int
    offset: float
    variance: float


class Forecast(msgspec.Struct, frozen=True):
    """What the next window's logits are expected to lack, and the standard deviation of that level."""

    offset: float
    error: float

    def share_of(self, offset: float) -> float:
        """The share, from 0 to 1, of a window's `offset` that the next one keeps; 0 within the error."""
        if not offset or abs(self.offset) <= self.error:
            return 0.0
        return float(np.clip(self.offset / offset, 0.0, 1.0))


def forecast(windows: Sequence[Window]) -> Forecast:
    """The level of the window after these, which are in order and about as long as it.

    The local level model: a window's offset is a level that walks at random, plus what this window has to
    itself, plus sampling noise (Harvey, "Forecasting, Structural Time Series Models and the Kalman Filter",
    1989). How far the level walks and how much windows differ is not known: the answer is the mean over a
    grid of both, weighted by the likelihood of the windows (Hoeting et al., "Bayesian Model Averaging: A
    Tutorial", 1999). So a click rate that is high one day and low the next is not chased, and one that goes
    somewhere is. Held-out windows may differ from those of training rows by overfitting.
    """
    if not windows:
        return Forecast(0.0, START)
    offsets = np.array([window.offset for window in windows])
    noise = np.array([window.variance for window in windows])
    held_out = np.array([float(window.part != "train") for window in windows])
    found = np.array([_forecast(offsets, noise, held_out, *one) for one in _deviations()])
    log_weights, means, variances = found.T
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = float(weights @ means)
    return Forecast(mean, float(np.sqrt(weights @ (variances + (means - mean) ** 2))))


def _deviations() -> Iterator[tuple[float, float, float]]:
    """A step's and a window's own deviation, and the log of their weight before the log is seen."""
    for step, own in product(DEVIATIONS, DEVIATIONS):
        yield step, own, float(np.log(STILL if step == 0 else (1 - STILL) / (len(DEVIATIONS) - 1)))


def _forecast(
    offsets: NDArray[np.float64],
    noise: NDArray[np.float64],
    held_out: NDArray[np.float64],
    step: float,
    own: float,
    log_weight: float,
) -> tuple[float, float, float]:
    """The log of the weight with the likelihood; mean and variance of the next held-out window's level."""
    place = np.arange(1.0, len(offsets) + 1)
    shared = START**2 + step**2 * np.minimum.outer(place, place) + OVERFIT**2 * np.outer(held_out, held_out)
    with_next = START**2 + step**2 * place + OVERFIT**2 * held_out
    next_variance = START**2 + step**2 * (len(place) + 1) + OVERFIT**2
    root = np.linalg.cholesky(shared + np.diag(noise + own**2))
    white = np.linalg.solve(root, np.stack([offsets, with_next], axis=1))
    likelihood = -0.5 * white[:, 0] @ white[:, 0] - np.log(np.diag(root)).sum()
    mean, variance = white[:, 0] @ white[:, 1], next_variance - white[:, 1] @ white[:, 1]
    return log_weight + float(likelihood), float(mean), float(variance)
