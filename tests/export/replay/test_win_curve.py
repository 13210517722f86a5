"""Win curves: what they are fitted to, and that their bids gain most."""

from __future__ import annotations

import numpy as np
import pytest

from export.replay.win_curve import (
    LogLogistic,
    LogNormal,
    Ortb1,
    Ortb2,
    WinCurve,
    fit_curve,
    fit_ortb1,
    fit_ortb2,
)

CURVES = [LogNormal(60.0, 0.7), LogNormal(0.01, 2.0), LogLogistic(60.0, 3.0), Ortb1(60.0), Ortb2(0.5)]


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_a_bid_gains_most_for_its_value(curve: WinCurve) -> None:
    values = curve.median * np.array([0.05, 0.3, 1.0, 4.0, 50.0])
    bids = curve.bids(values)
    gains = (values - bids) * curve.chance(bids)
    for ratio in (0.5, 0.9, 0.99, 1.01, 1.1, 1.5):
        assert ((values - ratio * bids) * curve.chance(ratio * bids) < gains).all()


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_bids_and_values_are_inverse_and_increase(curve: WinCurve) -> None:
    values = curve.median * np.geomspace(1e-4, 1e3, 200)
    bids = curve.bids(values)
    assert (np.diff(bids) > 0).all()
    assert curve.values(bids) == pytest.approx(values, rel=1e-4)
    assert curve.bids(np.zeros(1)) == [0.0]
    assert curve.values(np.zeros(1)) == [0.0]


def test_the_published_forms() -> None:
    c, value = 40.0, np.array([0.001, 3.0, 40.0, 9000.0])  # a value is pCTR / lambda
    assert Ortb1(c).bids(value) == pytest.approx(np.sqrt(c * value + c * c) - c, rel=1e-9)
    root = np.cbrt((value + np.sqrt(c * c + value * value)) / c)
    assert Ortb2(c).bids(value) == pytest.approx(c * (root - 1 / root), rel=1e-6)


def test_ortb_is_shading_by_curves_of_its_shape() -> None:
    values = np.geomspace(1e-3, 1e5, 50)
    assert LogLogistic(40.0, 1.0).bids(values) == pytest.approx(Ortb1(40.0).bids(values), rel=1e-4)
    assert LogLogistic(40.0, 2.0).bids(values) == pytest.approx(Ortb2(40.0).bids(values), rel=1e-4)


def test_a_curve_is_found_again_from_prices() -> None:
    draw = np.random.default_rng(0)
    normal = fit_curve(60.0 * np.exp(0.7 * draw.standard_normal(20_000)))
    assert isinstance(normal.curve, LogNormal)
    assert (normal.curve.median, normal.curve.spread) == pytest.approx((60.0, 0.7), rel=0.03)
    logistic = fit_curve(60.0 * np.exp(draw.logistic(size=20_000) / 3.0))
    assert isinstance(logistic.curve, LogLogistic)
    assert (logistic.curve.median, logistic.curve.shape) == pytest.approx((60.0, 3.0), rel=0.03)
    assert max(normal.error, logistic.error) < 0.01
    for fit, shape in ((fit_ortb1, 1.0), (fit_ortb2, 2.0)):
        found = fit(60.0 * np.exp(draw.logistic(size=20_000) / shape))
        assert found.curve.median == pytest.approx(60.0, rel=0.05)


def test_prices_of_zero_are_shares_and_no_bids() -> None:
    prices = np.concatenate((np.zeros(3_000), 50.0 * np.exp(np.random.default_rng(1).standard_normal(7_000))))
    found = fit_ortb1(prices)
    assert 10.0 < found.curve.median < 50.0  # half of the auctions are below less than half of the others
    assert np.isfinite(fit_curve(prices).error)


def test_a_price_beyond_all_bids_costs_any_value() -> None:
    assert LogNormal(1.0, 0.1).values(np.array([1e300])) == [np.inf]
