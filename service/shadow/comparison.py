"""How the pCTRs of two arms for the candidates of requests differ; it knows neither arms nor metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle.log_odds import log_odds_of

Values = NDArray[np.float64]

# The order of so many candidates of a request is compared, the first ones: pairs grow with the square.
RANKED = 64


class Comparison(NamedTuple):
    """What a shadow says [n] less what the arm that it follows says, of the candidates of some requests.

    `alike` is, of each request that has any, the share of pairs of candidates that both order alike, without
    those that one of them ties; Kendall's tau (1938) of the others is 2 * alike - 1. `has_same_best`, of each
    request of two candidates or more: the shadow's best is one that no other beats for the arm, too.
    """

    pctrs: Values
    log_odds: Values
    alike: list[float]
    has_same_best: list[bool]


def compare(arm: Values, shadow: Values, sizes: Sequence[int]) -> Comparison:
    """Compare pCTRs [n] of the same candidates, none of which is 0 or 1, so many a request."""
    found = Comparison(shadow - arm, log_odds_of(shadow) - log_odds_of(arm), [], [])
    for part in slices_of(sizes):
        one, other = arm[part], shadow[part]
        if len(one) > 1:
            found.has_same_best.append(bool(one[other.argmax()] == one.max()))
            alike = _share_alike(one[:RANKED], other[:RANKED])
            if alike is not None:
                found.alike.append(alike)
    return found


def slices_of(sizes: Sequence[int]) -> Iterator[slice]:
    """Where the candidates of each request are among those of all, so many a request."""
    return (slice(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0)))


def _share_alike(arm: Values, shadow: Values) -> float | None:
    # Of each pair [n, n], once from either side, whether the first is below the second.
    one, other = arm[:, None] < arm, shadow[:, None] < shadow
    alike, reversed_ = np.count_nonzero(one & other), np.count_nonzero(one & other.T)
    return alike / (alike + reversed_) if alike + reversed_ else None
