"""Calibration compared with scikit-learn, naive formulas and logs of known distortion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from export.errors import ExportError
from export.judge import metrics
from export.stages.calibration_methods import (
    METHODS,
    Shape,
    at_level,
    bend_evidence,
    fit_beta,
    fit_isotonic,
    fit_line,
    fit_offset,
    fit_platt,
    offset_to,
    slope_evidence,
)
from export.stages.calibrator_fit import fit_calibrator, in_log_distribution, trust
from export.stages.level_forecast import Forecast, Window, forecast
from export.train.config import TrainConfig
from export.train.prior import corrected_logits
from service.bundle.calibration import Calibrator

SHA = "0" * 64


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-scores))


def drawn(rows: int, seed: int, *, slope: float = 1.0, shift: float = 0.0) -> tuple[NDArray, NDArray]:
    """Logits that must be multiplied by `slope` and moved by `shift` to be calibrated, and clicks."""
    random = np.random.default_rng(seed)
    true = random.normal(-1.5, 1.0, rows)
    labels = (random.random(rows) < sigmoid(true)).astype(np.uint8)
    return (true - shift) / slope, labels


def fit(logits: NDArray, labels: NDArray, **options: object) -> Calibrator:
    return fit_calibrator(logits, labels, variant="float32", graph_sha256=SHA, **options)


def test_platt_is_logistic_regression_on_smoothed_targets() -> None:
    logits, labels = drawn(3000, seed=1, slope=0.4, shift=0.7)
    clicks = labels.sum()
    targets = np.where(labels == 1, (clicks + 1) / (clicks + 2), 1 / (len(labels) - clicks + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.r_[logits, logits][:, None],
        np.r_[np.ones(len(labels)), np.zeros(len(labels))],
        sample_weight=np.r_[targets, 1 - targets],
    )
    line = fit_platt(logits, labels)
    assert line.slope == pytest.approx(reference.coef_[0, 0], abs=1e-5)
    assert line.intercept == pytest.approx(reference.intercept_[0], abs=1e-5)


def test_platt_recovers_the_distortion() -> None:
    logits, labels = drawn(100_000, seed=2, slope=0.5, shift=-0.8)
    line = fit_platt(logits, labels)
    assert line.slope == pytest.approx(0.5, abs=0.02)
    assert line.intercept == pytest.approx(-0.8, abs=0.04)


def test_platt_keeps_a_positive_slope_where_clicks_fall_with_the_logit() -> None:
    logits, labels = drawn(4000, seed=3)
    line = fit_platt(-logits, labels)
    assert line.slope > 0
    mean = sigmoid(line.slope * -logits + line.intercept).mean()
    assert mean == pytest.approx(labels.mean(), abs=0.002)


def test_platt_stays_finite_on_separable_rows() -> None:
    logits = np.linspace(-3, 3, 200)
    line = fit_platt(logits, (logits > 0).astype(np.uint8))
    assert 0 < line.slope < 100
    assert math.isfinite(line.intercept)


def test_isotonic_knots_are_means_of_their_rows() -> None:
    logits, labels = drawn(20_000, seed=4)
    shape = fit_isotonic(logits, labels)
    assert shape is not None
    places, odds = np.array(shape.knots).T
    assert 3 < len(places) <= 40
    assert (np.diff(places) > 0).all()
    assert (np.diff(odds) > 0).all()
    # The log is calibrated, so knots lie near the diagonal where there are many rows.
    middle = slice(2, -2)
    assert np.abs(places - odds)[middle].max() < 0.35


def test_isotonic_bends_where_platt_cannot() -> None:
    random = np.random.default_rng(5)
    true = random.normal(-1, 1.3, 60_000)
    labels = (random.random(len(true)) < sigmoid(true)).astype(np.uint8)
    bent = np.sign(true) * np.abs(true) ** 3
    chosen = fit(bent, labels)
    assert chosen.method == "isotonic"
    assert chosen.after.ece < 0.25 * chosen.before.ece
    assert chosen.after.logloss < chosen.before.logloss


def test_a_calibrated_graph_keeps_its_logits() -> None:
    chosen = fit(*drawn(50_000, seed=6))
    assert chosen.method == "identity"
    assert chosen.before == chosen.after


def test_a_tilted_graph_gets_a_line() -> None:
    chosen = fit(*drawn(8_000, seed=7, slope=0.5, shift=0.3))
    assert chosen.method == "platt"
    assert (chosen.fit_rows, chosen.graph_sha256, chosen.variant) == (8_000, SHA, "float32")
    assert chosen.after.pcoc == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_can_be_restricted_to_one(method: str) -> None:
    logits, labels = drawn(5_000, seed=8)
    assert fit(logits, labels, methods=[method]).method == method


def test_down_sampling_is_undone() -> None:
    logits, labels = drawn(200_000, seed=9)
    kept = (labels == 1) | (np.random.default_rng(10).random(len(labels)) < 0.1)
    # A model trained on the down-sampled log has logits that are ln(10) too high.
    chosen = fit(logits[kept] - math.log(0.1), labels[kept], sampling_rate=0.1)
    true_rate = labels.mean()
    assert chosen.pctr(logits - math.log(0.1)).mean() == pytest.approx(true_rate, rel=0.03)
    in_log = in_log_distribution(chosen).pctr(logits[kept] - math.log(0.1)).mean()
    assert in_log == pytest.approx(labels[kept].mean(), rel=0.02)
    assert chosen.after.pcoc == pytest.approx(1.0, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(30, 3000),
    slope=st.floats(0.1, 5),
    shift=st.floats(-3, 3),
    decimals=st.sampled_from([1, 2, 8]),
    method=st.sampled_from(sorted(METHODS)),
)
def test_every_fit_keeps_the_order(
    seed: int, rows: int, slope: float, shift: float, decimals: int, method: str
) -> None:
    logits, labels = drawn(rows, seed, slope=slope, shift=shift)
    logits = np.round(logits, decimals)  # INT8 graphs give few different logits
    labels[:2] = 0, 1
    if method == "isotonic" and fit_isotonic(logits.astype(np.float64), labels) is None:
        with pytest.raises(ExportError, match="larger"):
            fit(logits, labels, methods=[method])
        return
    try:
        calibrator = fit(logits, labels, methods=[method])
    except ExportError:
        assume(False)  # enough rows for one fit, too few for each of the folds
    calibrator.validate()
    scores = np.linspace(max(-8, logits.min() - 1), min(8, logits.max() + 1), 400)
    pctr = calibrator.pctr(scores)
    inside = (pctr > calibrator.clamp_low) & (pctr < calibrator.clamp_high)
    assert (np.diff(pctr)[inside[1:] & inside[:-1]] > 0).all()
    assert (np.diff(pctr) >= 0).all()
    assert ((pctr > 0) & (pctr < 1)).all()


@pytest.mark.parametrize(
    ("logits", "labels", "options", "said"),
    [
        ([0.0, np.nan], [0, 1], {}, "finite"),
        ([0.0, 1.0], [0, 0], {}, "0 clicks in 2 rows"),
        ([0.0, 1.0], [1, 1], {}, "2 clicks in 2 rows"),
        ([0.0, 1.0], [0, 1], {"sampling_rate": 0.0}, "sampling_rate"),
        ([0.0, 1.0], [0, 1], {"methods": ["spline"]}, "'spline'"),
        ([0.0, 1.0], [0, 1], {"methods": ["isotonic"]}, "larger"),
    ],
)
def test_refusals(logits: list[float], labels: list[int], options: dict, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        fit(np.array(logits), np.array(labels), **options)


WEIGHTED = TrainConfig(loss="weighted-bce", click_weight=5.0, negative_rate=0.5)


def test_identity_undoes_what_training_did_to_the_odds() -> None:
    true, labels = drawn(60_000, seed=11)
    logits = true + math.log(5 / 0.5)
    chosen = fit(logits, labels, training=WEIGHTED)
    assert (chosen.method, chosen.slope) == ("platt", 1.0)
    assert chosen.intercept == pytest.approx(math.log(0.5 / 5))
    assert chosen.before.pcoc > 2
    assert chosen.after.pcoc == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(chosen.pctr(logits), sigmoid(true))


def test_a_clearly_better_fit_replaces_the_known_correction() -> None:
    true, labels = drawn(30_000, seed=12, slope=0.5, shift=0.4)
    chosen = fit(true + math.log(10), labels, training=WEIGHTED)
    assert chosen.slope == pytest.approx(0.5, abs=0.05)
    assert chosen.after.pcoc == pytest.approx(1.0, abs=0.03)


def test_sampling_of_the_log_and_in_training_are_each_undone_once() -> None:
    true, labels = drawn(200_000, seed=14)
    kept = (labels == 1) | (np.random.default_rng(15).random(len(labels)) < 0.1)
    # The log kept a tenth of the non-clicks, and training half of those.
    logits = true - math.log(0.1) - math.log(0.5)
    chosen = fit(
        logits[kept],
        labels[kept],
        training=TrainConfig(negative_rate=0.5),
        sampling_rate=0.1,
        methods=["identity"],
    )
    np.testing.assert_allclose(chosen.pctr(logits), sigmoid(true))
    in_log = in_log_distribution(chosen).pctr(logits[kept]).mean()
    assert in_log == pytest.approx(labels[kept].mean(), rel=0.02)


def test_training_without_weights_changes_nothing() -> None:
    logits, labels = drawn(50_000, seed=6)
    assert fit(logits, labels, training=TrainConfig()) == fit(logits, labels)


def page(period: int, rows: int, seed: int) -> tuple[NDArray, NDArray]:
    """Pages of `period` rows, a click first: logits that are too high, in the order of the log."""
    random = np.random.default_rng(seed)
    labels = (np.arange(rows) % period == 0).astype(np.uint8)
    true = random.normal(np.where(labels == 1, 0.5, -0.5), 1.0)
    return true - math.log(period - 1) + 0.5, labels


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6, 7, 8, 10, 25])
@pytest.mark.parametrize("timed", [False, True])
def test_a_pattern_of_the_log_does_not_lead_the_folds(period: int, timed: bool) -> None:
    rows = 4_200
    logits, labels = page(period, rows, seed=20)
    order = np.random.default_rng(21).permutation(rows)
    timestamps = np.arange(rows) // (rows // 7) if timed else None
    chosen = fit(logits, labels, timestamps=timestamps)
    again = fit(logits[order], labels[order], timestamps=None if timestamps is None else timestamps[order])
    assert chosen == again
    assert chosen.before.pcoc > 1.15
    assert chosen.pctr(logits).mean() == pytest.approx(labels.mean(), rel=0.02)


def test_rows_of_a_moment_may_come_sorted_by_their_label() -> None:
    logits, labels = drawn(9_000, seed=22, shift=0.4)
    timestamps = np.arange(9_000) // 3_000
    sorted_by_label = np.lexsort((labels, timestamps))
    chosen = fit(logits[sorted_by_label], labels[sorted_by_label], timestamps=timestamps)
    assert chosen.pctr(logits).mean() == pytest.approx(labels.mean(), rel=0.02)


def test_with_time_later_rows_judge_what_earlier_rows_fitted() -> None:
    # The slope holds in the first half; afterwards the model is right as it is.
    first, second = drawn(30_000, seed=23, slope=0.5), drawn(30_000, seed=24)
    logits, labels = np.r_[first[0], second[0]], np.r_[first[1], second[1]]
    options = {"expected": Forecast(0.0, 1.0), "methods": ["identity", "platt"]}
    assert fit(logits, labels, **options).slope < 0.8
    assert fit(logits, labels, timestamps=np.arange(60_000), **options).method == "identity"


def test_a_small_deviation_that_is_known_surely_is_corrected() -> None:
    logits, labels = drawn(60_000, seed=25, shift=-0.05)
    offset, variance = fit_offset(logits, labels)
    assert 2 < abs(offset) / math.sqrt(variance) < 6
    chosen = fit(logits, labels)
    assert chosen.method == "platt"
    fresh, clicks = drawn(1_000_000, seed=26, shift=-0.05)
    assert abs(chosen.pctr(fresh).sum() / clicks.sum() - 1) < 0.3 * abs(
        sigmoid(fresh).sum() / clicks.sum() - 1
    )


@pytest.mark.parametrize(
    ("expected", "corrected"),
    [
        (None, 0.98),
        (Forecast(0.6, 0.1), 1.0),
        (Forecast(0.25, 0.1), 0.5),
        (Forecast(0.1, 0.2), 0.0),
        (Forecast(-0.3, 0.1), 0.0),
    ],
)
def test_the_level_is_corrected_as_far_as_the_next_window_keeps_it(
    expected: Forecast | None, corrected: float
) -> None:
    logits, labels = drawn(40_000, seed=27, shift=0.5)
    chosen = fit(logits, labels, expected=expected)
    share = offset_to(logits, float(chosen.pctr(logits).mean())) / fit_offset(logits, labels)[0]
    assert share == pytest.approx(corrected, abs=0.08)
    assert (chosen.method == "identity") == (corrected == 0)


def test_a_shape_is_corrected_though_the_level_is_not() -> None:
    logits, labels = drawn(40_000, seed=28, slope=0.5, shift=0.3)
    chosen = fit(logits, labels, expected=Forecast(0.0, 1.0), methods=["identity", "platt"])
    assert chosen.slope == pytest.approx(0.5, abs=0.05)
    assert chosen.pctr(logits).mean() == pytest.approx(sigmoid(logits).mean(), rel=1e-6)


@pytest.mark.parametrize(("evidence", "share"), [(0.0, 0.0), (2.7, 0.0), (4.0, 0.75), (100.0, 0.99)])
def test_trust_is_the_james_stein_factor_of_what_has_evidence(evidence: float, share: float) -> None:
    assert trust(evidence) == pytest.approx(share)


@given(
    rate=st.floats(1e-6, 1 - 1e-6),
    scale=st.floats(0, 300),
    centre=st.floats(-300, 300),
    rows=st.integers(1, 50),
)
def test_an_offset_gives_the_rate(rate: float, scale: float, centre: float, rows: int) -> None:
    logits = centre + scale * np.random.default_rng(rows).normal(size=rows)
    assert metrics.sigmoid(logits + offset_to(logits, rate)).mean() == pytest.approx(rate, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    "shape",
    [
        Shape("identity"),
        Shape("platt", 0.5, intercept=0.2),
        Shape("isotonic", knots=((-2, -3), (0, -1), (1, 4))),
    ],
)
def test_a_level_moves_and_the_shape_stays(shape: Shape) -> None:
    logits = np.linspace(-4, 4, 50)
    raised = at_level(shape, logits, 0.1)
    assert sigmoid(raised.logits(logits)).mean() == pytest.approx(0.1)
    np.testing.assert_allclose(np.ptp(raised.logits(logits) - shape.logits(logits)), 0, atol=1e-9)
    for line in (Shape("identity"), Shape("platt", 2.0, intercept=-1.0)):
        np.testing.assert_allclose(
            shape.after(line).logits(logits), shape.logits(line.logits(logits)), atol=1e-9
        )


def test_the_evidence_of_a_slope_is_chi_square_where_there_is_none() -> None:
    found = [slope_evidence(*drawn(2_000, seed=seed)) for seed in range(200)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.3)
    assert np.mean(np.array(found) > 2.71) == pytest.approx(0.1, abs=0.06)
    logits, labels = drawn(2_000, seed=1, slope=0.5)
    assert slope_evidence(logits, labels) > 50
    line = fit_platt(logits, labels)
    assert fit_line(logits, labels, slope_share=0.5).slope == pytest.approx(1 + (line.slope - 1) / 2)


MISCALIBRATED = {
    "a tenth of the non-clicks": TrainConfig(negative_rate=0.1),
    "a click counts ten times": TrainConfig(loss="weighted-bce", click_weight=10.0),
    "focal loss": TrainConfig(loss="focal", focal_gamma=2.0, focal_alpha=0.25),
    "focal loss of few rows": TrainConfig(loss="focal", focal_gamma=3.0, focal_alpha=0.5, negative_rate=0.2),
}


@pytest.mark.parametrize("training", MISCALIBRATED.values(), ids=MISCALIBRATED)
@pytest.mark.parametrize("known", [True, False])
def test_a_miscalibrated_model_is_right_on_average_and_in_each_bin(
    training: TrainConfig, known: bool
) -> None:
    grid = np.linspace(-30, 30, 20_001)

    def model(rows: int, seed: int) -> tuple[NDArray, NDArray]:
        """The logits that training of this kind ends with, where it learns the true odds."""
        true, labels = drawn(rows, seed)
        return np.interp(true, corrected_logits(grid, training), grid), labels

    logits, labels = model(120_000, seed=30)
    fresh, clicks = model(250_000, seed=31)
    offset, variance = fit_offset(corrected_logits(logits, training) if known else logits, labels)
    window = Window("train", 120_000, int(labels.sum()), offset, variance)
    chosen = fit(
        logits,
        labels,
        training=training if known else None,
        timestamps=None if known else np.arange(len(logits)),
        expected=forecast([window] * 7),
    )
    before, after = metrics.sigmoid(fresh), chosen.pctr(fresh)
    assert abs(metrics.pcoc(clicks, before) - 1) > 0.2
    assert metrics.pcoc(clicks, after) == pytest.approx(1.0, abs=0.02)
    assert metrics.ece(clicks, after) < metrics.ece(clicks, before) / 5
    assert metrics.logloss(clicks, after) < metrics.logloss(clicks, before)


def bent(rows: int, seed: int, low: float, high: float) -> tuple[NDArray, NDArray]:
    """Logits that beta calibration with these slopes makes right, and clicks."""
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 1.5, rows)
    true = Shape("beta", slope=high, low_slope=low, intercept=-0.5).logits(logits)
    return logits, (random.random(rows) < sigmoid(true)).astype(np.uint8)


def test_beta_recovers_both_slopes() -> None:
    logits, labels = bent(300_000, 40, low=1.6, high=0.5)
    shape = fit_beta(logits, labels)
    assert (shape.low_slope, shape.slope) == pytest.approx((1.6, 0.5), abs=0.08)
    assert shape.intercept == pytest.approx(-0.5, abs=0.05)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.stack([-np.logaddexp(0, -logits), np.logaddexp(0, logits)], axis=1), labels
    )
    assert (shape.low_slope, shape.slope) == pytest.approx(tuple(reference.coef_[0]), abs=2e-3)


def test_beta_is_increasing_where_clicks_fall_with_the_logit() -> None:
    logits, labels = drawn(4_000, seed=41)
    for sign in (-1, 1):
        shape = fit_beta(sign * logits**3, labels)
        assert min(shape.slope, shape.low_slope) > 0


def test_a_bent_graph_gets_beta_and_a_straight_one_does_not() -> None:
    methods = ["identity", "platt", "beta"]
    logits, labels = bent(40_000, 42, low=1.6, high=0.4)
    for timestamps in (None, np.arange(40_000)):
        chosen = fit(logits, labels, methods=methods, timestamps=timestamps)
        assert chosen.method == "beta"
        assert chosen.low_slope > 1.3 > 0.7 > chosen.slope
        assert chosen.after.ece < chosen.before.ece / 3
    straight = [fit(*drawn(8_000, seed, slope=0.5), methods=methods).method for seed in range(20)]
    assert straight.count("platt") >= 16
    assert bend_evidence(*drawn(8_000, seed=43, slope=0.5)) < 8


def test_beta_alone_also_undoes_what_training_did() -> None:
    true, labels = drawn(60_000, seed=44)
    chosen = fit(true + math.log(10), labels, training=WEIGHTED, methods=["beta"])
    assert chosen.method == "beta"
    assert chosen.pctr(true + math.log(10)).mean() == pytest.approx(labels.mean(), rel=0.01)
