"""The dispersion of clicks, against a naive computation, and what rows that come in bursts decide with it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.calibration.counts import BINS, CLICKS, Counts, count, evidence_of
from service.calibration.decision import LiveCalibration, LiveRecord, Rules, next_revision
from service.calibration.dispersion import (
    LARGEST,
    LEAST_VARIANCE,
    PAIRS,
    PRIOR_PAIRS,
    Dispersion,
    DispersionRecord,
    Stretch,
    chi_squared,
    stretch_of,
)
from service.calibration.fit import NONE

MINUTE = 60.0


def counts_of_rows(log_odds: np.ndarray, is_click: np.ndarray) -> Counts:
    clicked = log_odds[is_click]
    found: Counts = count(log_odds, np.zeros(len(log_odds), bool)) + count(
        clicked, np.ones(len(clicked), bool)
    )
    return found


def naive_factor(periods: list[tuple[list[float], int]]) -> float:
    """From the pCTRs and the number of clicks of each period: blocks, pairs, and the mean row by row."""
    blocks: list[tuple[list[float], int]] = []
    pctrs: list[float] = []
    clicks = 0
    for some, clicked in periods:
        pctrs, clicks = pctrs + some, clicks + clicked
        if sum(p * (1.0 - p) for p in pctrs) >= LEAST_VARIANCE:
            blocks.append((pctrs, clicks))
            pctrs, clicks = [], 0
    found: list[float] = []
    for first, second in pairwise(blocks):
        expected = sum(first[0]) + sum(second[0])
        ratio = (first[1] + second[1]) / expected
        if ratio == 0.0:
            found.append(0.0)
            continue
        # Pearson's residual of the first block, and its variance if rows are independent.
        residual = first[1] - ratio * sum(first[0])
        shares = [1.0 - sum(first[0]) / expected, sum(first[0]) / expected]
        variance = sum(
            share**2 * sum(ratio * p * (1.0 - ratio * p) for p in rows)
            for share, (rows, _) in zip(shares, (first, second), strict=True)
        )
        found.append(min(residual**2 / variance, LARGEST * naive_mean(found)))
    return naive_mean(found)


def naive_mean(found: list[float]) -> float:
    """The mean of pairs, the older the less, and of those that it begins with."""
    weights = [(1.0 - 1.0 / PAIRS) ** age for age in range(len(found))][::-1]
    return max(1.0, (float(np.dot(weights, found)) + PRIOR_PAIRS) / (sum(weights) + PRIOR_PAIRS))


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 0.3), st.floats(0.0, 2.0)), max_size=30))
@settings(deadline=None, max_examples=40)
def test_the_factor_is_that_of_a_naive_computation(periods: list[tuple[int, float, float]]) -> None:
    found, naive = Dispersion(), []
    for rows, pctr, ratio in periods:
        clicks = round(ratio * rows * pctr)
        log_odds = np.full(rows, np.log(pctr / (1.0 - pctr)))
        added = counts_of_rows(log_odds, np.arange(rows) < clicks)
        found.add(stretch_of(evidence_of(added)))
        packed = msgspec.msgpack.encode(found.record)
        found = Dispersion.of(msgspec.msgpack.decode(packed, type=DispersionRecord))
        naive.append(([pctr] * rows, clicks))
    assert found.factor == pytest.approx(naive_factor(naive), rel=1e-4)


class Bursts:
    """Rows of users, so many of each in a row, who like more or less than others: beta-binomial clicks."""

    def __init__(self, rows_of_user: int, correlation: float, seed: int = 1) -> None:
        self._rows, self._correlation = rows_of_user, correlation
        self._rng = np.random.default_rng(seed)

    def counts(self, users: int, pctr: float, ratio: float = 1.0) -> Counts:
        log_odds = np.full(users * self._rows, np.log(pctr / (1.0 - pctr)))
        chances = np.full(users, ratio * pctr)
        if self._correlation:
            alike = 1.0 / self._correlation - 1.0
            chances = self._rng.beta(alike * chances, alike * (1.0 - chances))
        is_click = self._rng.random(len(log_odds)) < np.repeat(chances, self._rows)
        return counts_of_rows(log_odds, is_click)


@pytest.mark.parametrize(("rows_of_user", "correlation"), [(1, 0.0), (20, 0.05), (40, 0.1)])
@pytest.mark.parametrize("pctr", [0.03, 0.5])
def test_bursts_are_seen_as_what_they_are_worth(rows_of_user: int, correlation: float, pctr: float) -> None:
    """The variance of a beta-binomial is 1 + (rows - 1) * correlation times that of a binomial."""
    world, found = Bursts(rows_of_user, correlation), []
    for _ in range(3):
        dispersion = Dispersion()
        for _ in range(300):
            dispersion.add(stretch_of(evidence_of(world.counts(2_000 // rows_of_user, pctr))))
        found.append(dispersion.factor)
    assert np.mean(found) == pytest.approx(1.0 + (rows_of_user - 1) * correlation, rel=0.15)


def test_what_is_off_what_drifts_and_what_shifts_is_no_dispersion() -> None:
    world, found = Bursts(1, 0.0), Dispersion()
    for period in range(300):
        ratio = 1.4 - 0.002 * period - (0.3 if period > 150 else 0.0)
        found.add(stretch_of(evidence_of(world.counts(1_000, 0.05, ratio))))
    assert found.factor < 1.3


def test_it_is_one_at_least_and_of_what_little_is_known() -> None:
    found = Dispersion()
    assert found.factor == 1.0
    for _ in range(500):  # as regular as no chance is
        found.add(Stretch(10.0, 10.0, 1.0))
    assert found.factor == 1.0
    found = Dispersion()
    for events in (40.0, 20.0):  # six standard deviations, once
        found.add(Stretch(events, 20.0, 1.0))
    assert 1.0 < found.factor < 2.0
    assert chi_squared(Stretch(0.0, 20.0, 1.0), Stretch(0.0, 20.0, 1.0)) == 0.0


@pytest.mark.parametrize("wrong", [-8.0, float("nan"), float("inf")])
def test_a_record_of_something_else_is_refused(wrong: float) -> None:
    for record in (DispersionRecord(1.0, wrong), DispersionRecord(1.0, 1.0, Stretch(1.0, wrong))):
        with pytest.raises(ValueError, match="a dispersion must be"):
            Dispersion.of(record)


def decided(live: LiveCalibration, world: Bursts, periods: int, ratio: float = 1.0) -> int:
    return sum(len(live.step(world.counts(5, 0.5, ratio), MINUTE)) for _ in range(periods))


def test_a_calibrated_bundle_is_not_corrected_for_bursts_and_a_shift_is_still_followed() -> None:
    """Of the last periods each user has some, as of those that would judge what is fitted from them."""
    world, live = Bursts(40, 0.15), LiveCalibration(Rules(half_life_seconds=1e5))
    decided(live, world, 100)
    assert decided(live, world, 600) < 30
    assert live.dispersion > 4.0
    change = live.correction.log_odds(np.zeros(1)) - NONE.log_odds(np.zeros(1))
    assert abs(float(change[0])) < 0.1
    decided(live, world, 300, 0.7)
    assert float(live.correction.log_odds(np.zeros(1))[0]) == pytest.approx(np.log(0.35 / 0.65), abs=0.2)


def test_a_record_of_a_version_without_it_is_read() -> None:
    world, live = Bursts(40, 0.15), LiveCalibration(Rules())
    decided(live, world, 50)
    encoded = msgspec.msgpack.encode(live.record)
    before = msgspec.msgpack.encode(msgspec.msgpack.decode(encoded)[:-1])
    restored = LiveCalibration.of(msgspec.msgpack.decode(before, type=LiveRecord), Rules(), next_revision)
    assert restored.dispersion == 1.0
    assert restored.recent.clicks == live.recent.clicks
    again = LiveCalibration.of(msgspec.msgpack.decode(encoded, type=LiveRecord), Rules(), next_revision)
    assert again.dispersion == live.dispersion > 1.0
    assert live.record.window != np.zeros((BINS, 3)).tobytes()
    assert again.step(world.counts(5, 0.5), MINUTE) is not None
    assert CLICKS == 1
