"""Log-odds to click probabilities and back, in float64; it knows neither calibrators nor graphs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pctr_of(log_odds: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """pCTRs [n] of log-odds [n], between the clamps `low` and `high`. nan stays nan."""
    # exp overflows above 709, and no clamp is as low as exp(-700).
    probabilities = 1.0 / (1.0 + np.exp(np.minimum(-log_odds, 700.0)))
    return np.minimum(np.maximum(probabilities, low), high)


def log_odds_of(pctrs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds [n] of pCTRs [n], which the clamps keep off 0 and 1."""
    odds: NDArray[np.float64] = np.log(pctrs) - np.log1p(-pctrs)
    return odds
