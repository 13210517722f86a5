"""What is said of two arms' pCTRs is what the definitions say, pair by pair."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.log_odds import log_odds_of
from service.shadow.comparison import RANKED, compare

# Few values, so that there are ties.
PCTRS = st.sampled_from([1e-300, 0.001, 0.01, 0.0100001, 0.02, 0.5, 0.999999])


# Of a request each, of one candidate or more than are ranked.
REQUESTS = st.lists(
    st.lists(st.tuples(PCTRS, PCTRS), min_size=1, max_size=6)
    | st.lists(st.tuples(PCTRS, PCTRS), min_size=RANKED - 1, max_size=RANKED + 6),
    min_size=1,
    max_size=4,
)


@given(REQUESTS)
def test_pairs_and_bests_are_those_of_the_definitions(requests: list[list[tuple[float, float]]]) -> None:
    arm, shadow = np.concatenate(requests).T
    found = compare(arm, shadow, [*map(len, requests)])
    np.testing.assert_array_equal(found.pctrs, shadow - arm)
    shares, bests = [], []
    for pctrs in requests:
        alike, reversed_ = 0, 0
        for (one, other), (next_one, next_other) in combinations(pctrs[:RANKED], 2):
            product = (one - next_one) * (other - next_other)
            alike += product > 0.0
            reversed_ += product < 0.0
        if alike + reversed_:
            shares.append(alike / (alike + reversed_))
        if len(pctrs) > 1:
            best = max(range(len(pctrs)), key=lambda place: pctrs[place][1])
            bests.append(pctrs[best][0] == max(one for one, _ in pctrs))
    assert found.alike == shares
    assert found.has_same_best == bests


@given(st.floats(1e-300, 1.0 - 1e-12))
def test_log_odds_are_those_of_the_pctr(pctr: float) -> None:
    odds = float(log_odds_of(np.array([pctr]))[0])
    assert math.isclose(odds, math.log(pctr) - math.log1p(-pctr), rel_tol=1e-9, abs_tol=1e-12)
