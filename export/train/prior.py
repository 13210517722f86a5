"""What a loss that weighs clicks, or a draw of the non-clicks, does to logits, and how that is undone.

It knows formulas, no model: validation while training and the calibration sidecar both ask here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.train.config import TrainConfig

Logits = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


def undone(logits: Logits, config: TrainConfig) -> Floats:
    """Logits [n] of a model trained as `config` says -> the log-odds of a click in the log, [n].

    Keeping a share r of the non-clicks multiplies the odds of a click by 1 / r, weighing a click w times as
    much as a non-click by w (Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001, theorem 2).
    Focal loss moves and bends them: see `_undo_focal`. Every one of these maps is strictly increasing.
    """
    found = np.asarray(logits, np.float64)
    if config.loss == "focal":
        found = _undo_focal(found, config.focal_gamma, config.focal_alpha)
    return found + _shift(config)


def undoing_line(logits: Logits, config: TrainConfig) -> tuple[float, float]:
    """(slope, intercept) of the straight line that undoes the training, the form in which a sidecar says it.

    Exact but for focal loss, whose curve is replaced by the line nearest to it on these logits.
    """
    if config.loss != "focal":
        return 1.0, _shift(config)
    x = np.asarray(logits, np.float64)
    y = undone(x, config)
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread)) if np.ptp(x) > 1e-6 else 1.0
    return slope, float(y.mean() - slope * x.mean())


def _shift(config: TrainConfig) -> float:
    """What to add to a logit, for the draw of the non-clicks and the weight of the clicks."""
    weight = config.click_weight if config.loss == "weighted-bce" else 1.0
    return math.log(config.negative_rate / weight)


def _undo_focal(logits: Floats, gamma: float, alpha: float) -> Floats:
    """Logits of the least focal loss -> log-odds of a click.

    The expected loss -alpha p (1-q)^gamma ln q - (1-alpha) (1-p) q^gamma ln(1-q) of a row that is clicked
    with probability p is least at the q where p alpha A(q) = (1-p) (1-alpha) A(1-q), with
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
