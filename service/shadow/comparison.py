"""How the pCTRs of two arms for the candidates of one request differ; it knows neither arms nor metrics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle.log_odds import log_odds_of

Values = NDArray[np.float64]

# The order of so many candidates is compared, the first ones: pairs grow with the square.
RANKED = 64


class Comparison(NamedTuple):
    """What a shadow says [n] less what the arm that it follows says.

    `alike` is the share of pairs of candidates that both order alike, without those that one of them ties;
    Kendall's tau (1938) of the others is 2 * alike - 1. `has_same_best`: the shadow's best candidate is one
    that no other beats for the arm, too. None if there is nothing to compare.
    """

    pctrs: Values
    log_odds: Values
    alike: float | None
    has_same_best: bool | None


def compare(arm: Values, shadow: Values) -> Comparison:
    """Compare pCTRs [n] of the same candidates, none of which is 0 or 1."""
    has_same_best = bool(arm[shadow.argmax()] == arm.max()) if len(arm) > 1 else None
    return Comparison(
        shadow - arm, log_odds_of(shadow) - log_odds_of(arm), _share_alike(arm, shadow), has_same_best
    )


def _share_alike(arm: Values, shadow: Values) -> float | None:
    one, other = (np.sign(np.subtract.outer(each[:RANKED], each[:RANKED])) for each in (arm, shadow))
    products = one * other
    alike, reversed_ = np.count_nonzero(products > 0.0), np.count_nonzero(products < 0.0)
    return alike / (alike + reversed_) if alike + reversed_ else None
