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
from export.stages.calibration_methods import METHODS, fit_isotonic, fit_platt
from export.stages.calibrator_fit import fit_calibrator, in_log_distribution
from export.train.config import TrainConfig
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
        ([0.0, 1.0], [0, 1], {"methods": ["beta"]}, "'beta'"),
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
