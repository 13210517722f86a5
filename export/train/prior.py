"""Corrects logits for the bias of a weighted loss, focal loss or down-sampled non-clicks.

It knows formulas and no model. Validation during training and the calibration sidecar use it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.train.config import TrainConfig

Logits = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_LARGEST_LOGIT = 60.0


def corrected_logits(logits: Logits, config: TrainConfig) -> Floats:
    """Logits [n] of a model trained with `config` -> the log-odds of a click in the log, [n].

    Keeping a share r of the non-clicks multiplies the odds of a click by 1 / r; weighting clicks by w
    multiplies them by w (Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001, theorem 2). Focal
    loss changes them nonlinearly: see `_correct_focal`. Each of these maps is strictly increasing.
    """
    found = np.asarray(logits, np.float64)
    if config.loss == "focal":
        found = _correct_focal(found, config.focal_gamma, config.focal_alpha)
    return found + _shift(config)


def correction_line(logits: Logits, config: TrainConfig) -> tuple[float, float]:
    """(slope, intercept) of the correction as a straight line, the form that a sidecar holds.

    Exact except for focal loss, whose curve is approximated by least squares on these logits.
    """
    if config.loss != "focal":
        return 1.0, _shift(config)
    x = np.asarray(logits, np.float64)
    y = corrected_logits(x, config)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred)) if np.ptp(x) > 1e-6 else 1.0
    return slope, float(y.mean() - slope * x.mean())


def uncorrected_logit(log_odds: float, config: TrainConfig) -> float:
    """The logit that `corrected_logits` maps to these log-odds of a click, to about 1e-12."""
    return float(uncorrected_logits(np.array(log_odds), config))


def uncorrected_logits(log_odds: Floats, config: TrainConfig) -> Floats:
    """The same of many, of any shape."""
    if config.loss != "focal":
        return log_odds - _shift(config)
    low, high = np.full_like(log_odds, -_LARGEST_LOGIT), np.full_like(log_odds, _LARGEST_LOGIT)
    for _ in range(64):
        middle = (low + high) / 2
        below = corrected_logits(middle, config) < log_odds
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _shift(config: TrainConfig) -> float:
    """The addend to a logit for the sampling of non-clicks and the weight of clicks."""
    weight = config.click_weight if config.loss == "weighted-bce" else 1.0
    return math.log(config.negative_rate / weight)


def _correct_focal(logits: Floats, gamma: float, alpha: float) -> Floats:
    """Logits that minimise focal loss -> log-odds of a click.

    The expected loss -alpha p (1-q)^gamma ln q - (1-alpha) (1-p) q^gamma ln(1-q) of a row with click
    probability p is least at the q where p alpha A(q) = (1-p) (1-alpha) A(1-q), with
    A(q) = (1-q)^gamma / q - gamma (1-q)^(gamma-1) ln q; hence the log-odds of p. (Charoenphakdee et al., "On
    Focal Loss for Class-Posterior Probability Estimation", CVPR 2021, derive the same for alpha = 1/2.)
    """
    return math.log((1 - alpha) / alpha) + _log_a(-logits, gamma) - _log_a(logits, gamma)


def _log_a(x: Floats, gamma: float) -> Floats:
    """ln A(sigmoid(x)), without overflow."""
    minus_log_q = np.logaddexp(0.0, -x)
    minus_log_rest = np.logaddexp(0.0, x)
    # q / (1-q) times -ln q: near 1 for large x, where its factors leave the range of a float.
    bend = np.exp(np.minimum(x, 30.0)) * np.logaddexp(0.0, -np.minimum(x, 30.0))
    return minus_log_q - gamma * minus_log_rest + np.log1p(gamma * bend)
