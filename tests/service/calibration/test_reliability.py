"""Points of a reliability diagram: no row is lost, and the intervals are Wilson's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from service.calibration.counts import BINS, CLICKS, IMPRESSIONS, PREDICTED, count
from service.calibration.fit import Z_95
from service.calibration.reliability import POINTS, reliability_of, wilson_interval


def test_calibrated_pctrs_lie_on_the_diagonal_and_others_beside_it() -> None:
    rng = np.random.default_rng(3)
    log_odds = rng.normal(-3.0, 1.0, 200_000).astype(np.float32)
    pctrs = 1.0 / (1.0 + np.exp(-log_odds.astype(np.float64)))
    clicked = rng.random(len(pctrs)) < pctrs
    shown, clicks = np.zeros(len(pctrs), bool), np.ones(int(clicked.sum()), bool)
    counts = count(np.append(log_odds, log_odds[clicked]), np.append(shown, clicks))
    points = reliability_of(counts)
    assert POINTS - 3 <= len(points) <= POINTS
    assert sum(point.impressions for point in points) == len(pctrs)
    assert sum(point.clicks for point in points) == clicked.sum()
    assert [point.pctr for point in points] == sorted(point.pctr for point in points)
    assert sum(point.low <= point.pctr <= point.high for point in points) >= len(points) - 2
    doubled = counts.copy()
    doubled[:, PREDICTED] *= 2.0
    assert all(point.high < point.pctr for point in reliability_of(doubled))


@given(st.lists(st.tuples(st.integers(0, BINS - 1), st.integers(0, 50), st.integers(0, 50)), max_size=12))
def test_no_row_is_lost(rows: list[tuple[int, int, int]]) -> None:
    counts = np.zeros((BINS, 3))
    for place, shown, clicks in rows:
        counts[place] += shown, clicks, 0.1 * shown
    points = reliability_of(counts)
    assert len(points) <= POINTS + 1
    used = counts[counts[:, IMPRESSIONS] > 0]
    assert sum(point.impressions for point in points) >= used[:, IMPRESSIONS].sum()
    assert sum(point.clicks for point in points) >= used[:, CLICKS].sum()
    for point in points:
        assert 0.0 <= point.low <= point.rate + 1e-12 <= point.high + 2e-12 <= 1.0 + 2e-12


@pytest.mark.parametrize(("clicks", "rows"), [(0, 10), (1, 1), (3, 40), (500, 1000)])
def test_an_interval_is_what_a_score_test_does_not_reject(clicks: int, rows: int) -> None:
    def surplus(rate: float) -> float:
        return float((clicks / rows - rate) ** 2 - Z_95**2 * rate * (1.0 - rate) / rows)

    low, high = wilson_interval(clicks, rows)
    observed, tiny = clicks / rows, 1e-12
    assert low == pytest.approx(brentq(surplus, tiny, observed - tiny) if clicks else 0.0, abs=1e-9)
    assert high == pytest.approx(
        brentq(surplus, observed + tiny, 1.0 - tiny) if clicks < rows else 1.0, abs=1e-9
    )
