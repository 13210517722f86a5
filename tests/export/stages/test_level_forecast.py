"""What the next window lacks, forecast from windows whose levels are drawn in a known way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.stages.level_forecast import Forecast, Window, forecast

NOISE = 0.03  # of a window of about a thousand clicks
Levels = Callable[[np.random.Generator, int], NDArray[np.float64]]


def windows_of(offsets: NDArray[np.float64], *, noise: float = NOISE, held_out: int = 2) -> list[Window]:
    parts = ["train"] * (len(offsets) - held_out) + ["validation"] * held_out
    return [Window(part, 1, 1, float(offset), noise**2) for part, offset in zip(parts, offsets, strict=True)]


def as_trained(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """A model takes the mean of its training windows for itself: all but the last three."""
    return levels - levels[:-3].mean()


def squared_errors(levels: Levels, logs: int = 200, windows: int = 9) -> NDArray[np.float64]:
    """Of the forecast, of no correction and of the last window, about the next level; means over logs."""
    found = []
    for seed in range(logs):
        draw = np.random.default_rng(seed)
        true = as_trained(levels(draw, windows + 1))
        offsets = true[:-1] + draw.normal(0, NOISE, windows)
        expected = forecast(windows_of(offsets))
        share = expected.share_of(offsets[-1])
        found.append([share * offsets[-1] - true[-1], true[-1], offsets[-1] - true[-1]])
    errors: NDArray[np.float64] = (np.array(found) ** 2).mean(0)
    return errors


def walk(step: float) -> Levels:
    return lambda draw, n: np.cumsum(draw.normal(0, step, n))


def apart(own: float) -> Levels:
    return lambda draw, n: draw.normal(0, own, n)


@pytest.mark.parametrize("own", [0.0, 0.1, 0.2, 0.4])
def test_windows_that_differ_by_chance_are_not_followed(own: float) -> None:
    ours, none, last = squared_errors(apart(own))
    assert ours < 1.2 * none + 0.3 * NOISE**2
    assert ours < 0.7 * last


@pytest.mark.parametrize("step", [0.1, 0.25, 0.5])
def test_a_level_that_walks_is_followed(step: float) -> None:
    ours, none, last = squared_errors(walk(step))
    assert ours < 0.45 * none
    assert ours < 1.9 * last


@pytest.mark.parametrize(
    "levels",
    [
        lambda draw, n: 0.05 * np.arange(n),
        lambda draw, n: np.where(np.arange(n) >= 5, 0.4, 0.0) + draw.normal(0, 0.02, n),
        lambda draw, n: np.where(np.arange(n) >= 7, 0.3, 0.0),  # held-out rows: overfitting
    ],
    ids=["trend", "step", "overfitting"],
)
def test_what_lasts_is_corrected(levels: Levels) -> None:
    ours, none, _ = squared_errors(levels)
    assert ours < 0.15 * none


def test_a_small_deviation_is_corrected_where_no_window_moves() -> None:
    shares = []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        offsets = draw.normal(0, NOISE, 9)
        offsets[-2:] = 2.5 * NOISE + np.array([offsets[-2], 0.0])
        shares.append(forecast(windows_of(offsets)).share_of(offsets[-1]))
    assert np.mean(np.array(shares) > 0.5) > 0.8


def test_the_error_is_that_of_the_level() -> None:
    draw, found = np.random.default_rng(3), []
    for _ in range(300):
        true = np.cumsum(draw.normal(0, 0.1, 13))
        expected = forecast(windows_of(true[:-1] + draw.normal(0, NOISE, 12), held_out=0))
        found.append((expected.offset - true[-1]) / expected.error)
    # An error that is right on average makes these of variance 1. The next held-out window may be overfitted
    # by OVERFIT, which these are not.
    assert 0.3 < np.var(found) < 1.2


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(1e-6, 4.0), st.booleans()), max_size=36),
)
def test_a_forecast_is_finite_and_no_share_is_beyond_its_bounds(
    drawn: list[tuple[float, float, bool]],
) -> None:
    windows = [
        Window("train" if training else "calibration", 1, 1, offset, variance)
        for offset, variance, training in drawn
    ]
    expected = forecast(windows)
    assert np.isfinite(expected.offset)
    assert expected.error > 0
    for offset in (-1.0, 0.0, 1e-300, 0.5):
        assert 0 <= expected.share_of(offset) <= 1


def test_a_share_is_of_what_lasts() -> None:
    assert Forecast(0.3, 0.1).share_of(0.4) == pytest.approx(0.75)
    assert Forecast(0.5, 0.1).share_of(0.4) == 1
    assert Forecast(-0.3, 0.1).share_of(0.4) == 0
    assert Forecast(0.3, 0.31).share_of(0.4) == 0
    assert Forecast(0.3, 0.1).share_of(0.0) == 0
    assert forecast([]).share_of(1.0) == 0
