"""The correction that evidence gives, against naive minimisation; and the interval of PCOC."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.calibration.counts import (
    BIN_WIDTH,
    BINS,
    CLICKS,
    IMPRESSIONS,
    LOWEST,
    PREDICTED,
    Counts,
    Evidence,
    count,
    evidence_of,
)
from service.calibration.fit import (
    MIN_SLOPE,
    NONE,
    SHIFT_DEVIATION,
    SLOPE_DEVIATION,
    Correction,
    fit,
    loss,
    pcoc_interval,
    predicted_clicks,
)


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    bins = draw(st.lists(st.integers(0, BINS - 1), min_size=1, max_size=6, unique=True))
    rows = [draw(st.floats(0.01, 1e5)) for _ in bins]
    clicks = [each * draw(st.floats(0.0, 1.0)) for each in rows]
    return Evidence(LOWEST + BIN_WIDTH * (np.array(bins) + 0.5), np.array(rows), np.array(clicks))


def naive_objective(evidence: Evidence, correction: Correction) -> float:
    """Minus the logarithm of the posterior, row by row."""
    mean = float(np.average(evidence.log_odds, weights=evidence.rows))
    shift = correction.intercept + correction.slope * mean - mean
    found = 0.5 * (shift / SHIFT_DEVIATION) ** 2 + 0.5 * ((correction.slope - 1) / SLOPE_DEVIATION) ** 2
    for z, rows, clicks in zip(*(each.tolist() for each in evidence), strict=True):
        pctr = sigmoid(correction.intercept + correction.slope * z)
        found -= clicks * math.log(pctr) if clicks else 0.0
        found -= (rows - clicks) * math.log(sigmoid(-correction.intercept - correction.slope * z))
    return found


@given(evidences())
@settings(deadline=None, max_examples=60)
def test_no_point_around_the_fit_is_better(evidence: Evidence) -> None:
    found = fit(evidence)
    assert found.slope >= MIN_SLOPE - 1e-12
    best = naive_objective(evidence, found)
    mean = float(np.average(evidence.log_odds, weights=evidence.rows))
    for size in (1e-3, 0.01, 0.1, 1.0):
        for direction in np.linspace(0.0, 2 * math.pi, 16, endpoint=False):
            slope = max(MIN_SLOPE, found.slope + size * math.sin(direction))
            shift = found.intercept + found.slope * mean + size * math.cos(direction)
            other = naive_objective(evidence, Correction(shift - slope * mean, slope))
            assert best <= other + 1e-7 * (1.0 + abs(other))


@given(st.floats(-0.8, 0.8), st.floats(0.8, 1.2))
@settings(deadline=None, max_examples=30)
def test_much_evidence_gives_back_what_made_it(intercept: float, slope: float) -> None:
    log_odds = np.arange(-7.0, 0.0, 0.5)
    rows = np.full(len(log_odds), 1e7)
    made = Correction(intercept, slope)
    pctrs = 1.0 / (1.0 + np.exp(-made.log_odds(log_odds)))
    found = fit(Evidence(log_odds, rows, rows * pctrs))
    assert (found.intercept, found.slope) == pytest.approx((intercept, slope), abs=2e-3)


def test_little_evidence_is_drawn_to_no_correction() -> None:
    def found(rows: float) -> Correction:
        return fit(Evidence(np.array([-4.0, -3.0]), np.array([rows, rows]), np.array([0.03, 0.08]) * rows))

    shifts = [found(rows).intercept - 3.5 * (found(rows).slope - 1) for rows in (1, 100, 10_000, 1e7)]
    assert shifts == sorted(shifts)
    assert 0.0 < shifts[0] < 0.02
    assert fit(Evidence(*np.zeros((3, 0)))) == NONE


def test_a_slope_that_evidence_turns_over_stays_above_zero() -> None:
    rows = np.full(4, 1e6)
    evidence = Evidence(np.array([-5.0, -4.0, -3.0, -2.0]), rows, rows * np.array([0.2, 0.1, 0.05, 0.01]))
    assert fit(evidence).slope == pytest.approx(MIN_SLOPE)


@given(st.floats(-1, 1), st.floats(0.2, 2), st.lists(st.floats(-13, 13, width=32), min_size=2, max_size=20))
@settings(deadline=None)
def test_ranks_stay_and_a_row_depends_on_itself_alone(
    intercept: float, slope: float, log_odds: list[float]
) -> None:
    correction = Correction(intercept, slope)
    own = 1.0 / (1.0 + np.exp(-np.sort(np.array(log_odds))))
    pctrs = correction.pctrs(own, 1e-6, 1 - 1e-6)
    assert (np.diff(pctrs) >= -1e-15).all()
    assert pctrs.min() >= 1e-6
    assert pctrs.max() <= 1 - 1e-6
    for place in range(len(own)):
        assert correction.pctrs(own[place : place + 1], 1e-6, 1 - 1e-6)[0] == pctrs[place]
    both = np.full((len(own), 2), np.nan, order="F")
    correction.pctrs(own, np.array(1e-6), np.array(1 - 1e-6), out=both[:, 0])
    assert both[:, 0].tolist() == pctrs.tolist()
    assert np.isnan(both[:, 1]).all()
    exact = 1.0 / (1.0 + np.exp(-correction.log_odds(np.log(own / (1.0 - own)))))
    assert pctrs.tolist() == np.clip(exact, 1e-6, 1 - 1e-6).tolist()


def exact_interval(clicks: int) -> tuple[float, float]:
    """Garwood's: means under which so many clicks, or fewer and more, have a probability of 2.5 %."""

    def tail(mean: float, at_most: int) -> float:
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(at_most + 1))

    def solve(probability: float, at_most: int) -> float:
        low, high = 1e-9, 10.0 * (clicks + 10)
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if tail(middle, at_most) > probability else (low, middle)
        return low

    return (solve(0.975, clicks - 1) if clicks else 0.0), solve(0.025, clicks)


@pytest.mark.parametrize("clicks", [3, 5, 20, 50, 400])
def test_the_interval_of_pcoc_is_nearly_exact(clicks: int) -> None:
    low, high = exact_interval(clicks)
    found = pcoc_interval(100.0, clicks)
    assert found == pytest.approx((100 / high, 100 / low), rel=0.05 if clicks < 5 else 0.01)


def test_no_clicks_have_no_upper_end() -> None:
    low, high = pcoc_interval(5.0, 0.0)
    assert 1.0 < low < 5.0
    assert high == math.inf


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), max_size=50))
@settings(deadline=None)
def test_counts_have_each_event_once(events: list[tuple[float, bool]]) -> None:
    log_odds = np.array([each for each, _ in events], np.float32)
    is_click = np.array([each for _, each in events], bool)
    counts: Counts = count(log_odds, is_click)
    assert counts[:, CLICKS].sum() == is_click.sum()
    assert counts[:, IMPRESSIONS].sum() == (~is_click).sum()
    own = sum(
        sigmoid(z) for z, clicked in zip(log_odds.tolist(), is_click.tolist(), strict=True) if not clicked
    )
    assert counts[:, PREDICTED].sum() == pytest.approx(own)
    evidence = evidence_of(counts)
    if not is_click.any():
        assert predicted_clicks(evidence, NONE) == pytest.approx(own)


def test_the_loss_of_bins_is_that_of_their_rows() -> None:
    rng = np.random.default_rng(7)
    log_odds = rng.normal(-3.0, 1.0, 20_000)
    is_click = rng.random(len(log_odds)) < 1.0 / (1.0 + np.exp(-log_odds))
    shown = count(log_odds, np.zeros(len(log_odds), bool))
    clicked = count(log_odds[is_click], np.ones(int(is_click.sum()), bool))
    evidence = evidence_of(shown + clicked)
    for correction in (NONE, Correction(0.3, 1.0), Correction(-0.5, 0.9)):
        corrected = correction.log_odds(log_odds)
        exact = np.logaddexp(0.0, corrected).sum() - corrected[is_click].sum()
        assert loss(evidence, correction) == pytest.approx(float(exact), rel=2e-3)
