"""The correction of a loss against the loss: its minimum must map to the click probability."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.train.config import TrainConfig
from export.train.prior import corrected_logits, correction_line, uncorrected_logit

PLAIN = TrainConfig()


def expected_loss(logits: np.ndarray, pctr: float, config: TrainConfig) -> np.ndarray:
    """The expected loss of a row with click probability pctr, by its logit."""
    q, rest = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits))
    clicks, others = pctr, (1 - pctr) * config.negative_rate
    if config.loss == "weighted-bce":
        clicks *= config.click_weight
    if config.loss != "focal":
        return -clicks * np.log(q) - others * np.log(rest)
    gamma, alpha = config.focal_gamma, config.focal_alpha
    return -alpha * clicks * rest**gamma * np.log(q) - (1 - alpha) * others * q**gamma * np.log(rest)


@pytest.mark.parametrize("pctr", [0.001, 0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, loss="calibration-aware"),
        replace(PLAIN, negative_rate=0.2),
        replace(PLAIN, loss="weighted-bce", click_weight=5.0),
        replace(PLAIN, loss="weighted-bce", click_weight=0.3, negative_rate=0.05),
        replace(PLAIN, loss="focal"),
        replace(PLAIN, loss="focal", focal_gamma=0.5, focal_alpha=0.8, negative_rate=0.1),
        replace(PLAIN, loss="focal", focal_gamma=0.0, focal_alpha=0.5),
    ],
)
def test_the_logit_of_least_loss_becomes_the_click_probability(pctr: float, config: TrainConfig) -> None:
    logits = np.linspace(-12, 12, 240_001)
    best = logits[np.argmin(expected_loss(logits, pctr, config))]
    found = 1 / (1 + np.exp(-corrected_logits(np.array([best]), config)[0]))
    assert found == pytest.approx(pctr, rel=1e-3)


@pytest.mark.parametrize("log_odds", [-9.0, -3.9, 0.0, 2.0])
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, loss="weighted-bce", click_weight=5.0, negative_rate=0.2),
        replace(PLAIN, loss="focal", negative_rate=0.1),
    ],
)
def test_a_logit_is_found_for_any_log_odds(log_odds: float, config: TrainConfig) -> None:
    logit = uncorrected_logit(log_odds, config)
    assert corrected_logits(np.array([logit]), config)[0] == pytest.approx(log_odds, abs=1e-9)


def test_without_weights_nothing_is_done() -> None:
    logits = np.linspace(-5, 5, 11)
    assert np.array_equal(corrected_logits(logits, PLAIN), logits)
    assert correction_line(logits, PLAIN) == (1.0, 0.0)
    ignored = replace(PLAIN, click_weight=7.0, focal_gamma=3.0)  # parameters of losses that were not chosen
    assert correction_line(logits, ignored) == (1.0, 0.0)


def test_the_line_of_a_weight_and_a_sample_is_the_shift_of_the_odds() -> None:
    config = replace(PLAIN, loss="weighted-bce", click_weight=5.0, negative_rate=0.2)
    assert correction_line(np.zeros(3), config) == pytest.approx((1.0, math.log(0.2 / 5)))


def test_the_line_of_focal_loss_is_near_its_curve_where_the_logits_are() -> None:
    config = replace(PLAIN, loss="focal")
    logits = np.random.default_rng(0).normal(-0.8, 0.4, 5000)
    slope, intercept = correction_line(logits, config)
    assert 1.5 < slope < 3.0  # gamma 2 flattens logits: the slope is 2 in the middle and 3 at the ends
    assert np.abs(slope * logits + intercept - corrected_logits(logits, config)).mean() < 0.02
    assert correction_line(np.full(4, 0.3), config) == pytest.approx(
        (1.0, corrected_logits(np.array([0.3]), config)[0] - 0.3)
    )


@given(st.floats(-600, 600), st.floats(1e-3, 1), st.floats(0, 5), st.floats(0.01, 0.99))
def test_corrections_are_finite_and_increasing(logit: float, step: float, gamma: float, alpha: float) -> None:
    config = replace(PLAIN, loss="focal", focal_gamma=gamma, focal_alpha=alpha, negative_rate=0.5)
    low, high = corrected_logits(np.array([logit, logit + step]), config)
    assert np.isfinite([low, high]).all()
    assert low < high
