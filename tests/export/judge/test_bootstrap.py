"""The paired bootstrap compared with scikit-learn on resampled rows, and on known differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from export.judge import bootstrap
from export.judge.bootstrap import (
    _resampled,
    interval,
    paired_bootstrap,
    resampled_aucs,
    resampled_loglosses,
    resampled_means,
    with_intervals,
)
from export.judge.metrics import auc, evaluate, logloss, normalized_entropy, pcoc, prauc


@pytest.fixture(scope="module")
def clicks() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    draw = np.random.default_rng(5)
    pctr = draw.beta(1, 6, 4000)
    return (draw.random(4000) < pctr).astype(np.uint8), pctr


@pytest.mark.parametrize(("metric", "naive"), [("auc", sk.roc_auc_score), ("logloss", sk.log_loss)])
@pytest.mark.parametrize("decimals", [8, 1])
def test_the_interval_is_that_of_resampled_rows(clicks, metric, naive, decimals) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    reference = np.clip(pctr.round(decimals), 1e-6, 1 - 1e-6)
    noise = np.random.default_rng(6).normal(0, 0.5, len(pctr))
    variant = np.clip((pctr * np.exp(noise)).round(decimals), 1e-6, 1 - 1e-6)
    found = paired_bootstrap(labels, reference, variant, metric, resamples=40, seed=7)
    assert found.delta == pytest.approx(naive(labels, variant) - naive(labels, reference), abs=1e-10)
    draw = np.random.default_rng(7)  # the same draws as paired_bootstrap makes
    deltas = []
    for _ in range(40):
        rows = draw.integers(0, len(labels), len(labels), dtype=np.int32)
        deltas.append(naive(labels[rows], variant[rows]) - naive(labels[rows], reference[rows]))
    assert found.interval == pytest.approx(np.quantile(deltas, (0.025, 0.975)), abs=1e-10)
    assert found.low < found.delta < found.high


@pytest.mark.parametrize("metric", ["auc", "logloss"])
def test_a_prediction_does_not_differ_from_itself(clicks, metric) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    found = paired_bootstrap(labels, pctr, pctr.copy(), metric, resamples=10)
    assert (found.delta, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_worse_prediction_is_known_as_such(clicks) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    worse = np.full_like(pctr, pctr.mean())
    assert paired_bootstrap(labels, pctr, worse, "auc").high < 0
    assert paired_bootstrap(labels, pctr, worse, "logloss").low > 0


def test_the_same_seed_gives_the_same_interval(clicks) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    first, again, other = (
        paired_bootstrap(labels, pctr, pctr**1.1, "logloss", resamples=20, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.interval != other.interval


def test_resamples_without_a_click_are_drawn_again() -> None:
    labels = np.array([1, 0, 0, 0], dtype=np.uint8)
    found = paired_bootstrap(labels, [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], "auc", resamples=50)
    assert found.interval == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("metric", "resampled", "naive"),
    [("auc", resampled_aucs, sk.roc_auc_score), ("logloss", resampled_loglosses, sk.log_loss)],
)
def test_many_scores_at_once_are_resampled_as_two_are(clicks, metric, resampled, naive) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    scores = [pctr, np.clip((pctr**1.1).round(2), 0.01, 0.99), np.full_like(pctr, 0.5)]
    found = resampled(labels, scores, resamples=30, seed=3)
    assert found.shape == (3, 31)
    assert found[:, 0] == pytest.approx([naive(labels, score) for score in scores], abs=1e-12)
    for row in (1, 2):
        alone = paired_bootstrap(labels, scores[0], scores[row], metric, resamples=30, seed=3)
        assert found[row, 0] - found[0, 0] == pytest.approx(alone.delta, abs=1e-12)
        assert interval(found[row, 1:] - found[0, 1:]) == pytest.approx(alone.interval, abs=1e-12)


def test_the_intervals_of_metrics_are_those_of_other_samples_of_rows() -> None:
    """Of 100 logs from one source, about 95 % have the source's AUC and LogLoss within their intervals."""
    draw = np.random.default_rng(8)

    def log(rows: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        pctr = draw.beta(2, 8, rows)
        return (draw.random(rows) < pctr).astype(np.uint8), pctr

    truth = evaluate(*log(400_000))
    held = {"auc": 0, "logloss": 0}
    for _ in range(100):
        labels, pctr = log(400)
        metrics = with_intervals(labels, pctr, evaluate(labels, pctr))
        assert metrics.auc_interval is not None
        assert metrics.logloss_interval is not None
        assert metrics.auc_interval[0] < metrics.auc < metrics.auc_interval[1]
        held["auc"] += metrics.auc_interval[0] < truth.auc < metrics.auc_interval[1]
        held["logloss"] += metrics.logloss_interval[0] < truth.logloss < metrics.logloss_interval[1]
    assert all(88 <= count <= 99 for count in held.values()), held


def many_rows(rows: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Labels with few clicks, and two predictions of them."""
    draw = np.random.default_rng(3)
    true = draw.beta(1, 30, rows)
    labels = (draw.random(rows) < true).astype(np.uint8)
    return labels, true, np.clip(true * np.exp(draw.normal(0, 0.5, rows)), 1e-6, 0.99)


@pytest.mark.parametrize("metric", ["auc", "logloss"])
def test_intervals_of_many_rows_are_those_of_all_of_them(metric, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    labels, reference, variant = many_rows(60_000)
    whole = paired_bootstrap(labels, reference, variant, metric, resamples=300)
    monkeypatch.setattr("export.judge.bootstrap.MOST_ROWS", 15_000)
    found = paired_bootstrap(labels, reference, variant, metric, resamples=300)
    assert found.delta == whole.delta
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.25)
    assert found.low == pytest.approx(whole.low, abs=0.25 * (whole.high - whole.low))


def test_of_many_rows_no_more_are_resampled_than_stated(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    labels, _, pctr = many_rows(5_000)
    rows: list[int] = []

    def counting(y: NDArray[np.float64], p: NDArray[np.float64]):  # type: ignore[no-untyped-def]
        def value(counts: NDArray[np.int64]) -> float:
            rows.append(len(counts))
            return float(counts @ p / counts.sum())

        return value

    monkeypatch.setattr("export.judge.bootstrap.MOST_ROWS", 1_000)
    found = _resampled(labels.astype(float), [(counting, pctr)], 20, seed=0)
    assert rows == [5_000, 1_000] + [1_000] * 20
    assert found[0, 0] == pytest.approx(pctr.mean())
    # All of the standard error that 5,000 rows leave, though 1,000 are drawn.
    assert found[0, 1:].std() == pytest.approx(pctr.std() / np.sqrt(5_000), rel=0.4)


def test_a_single_click_among_many_rows_is_resampled(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = np.zeros(3_000, np.uint8), np.linspace(0.01, 0.02, 3_000)
    labels[1_234] = 1
    monkeypatch.setattr("export.judge.bootstrap.MOST_ROWS", 500)
    (aucs,) = resampled_aucs(labels, [pctr], resamples=20)
    assert np.isfinite(aucs).all()


@pytest.mark.parametrize("decimals", [1, 6])
def test_every_weighted_metric_is_that_of_repeated_rows(decimals: int) -> None:
    """With one decimal many pCTRs are equal."""
    draw = np.random.default_rng(3)
    pctr = np.round(draw.uniform(0.05, 0.95, 300), decimals)
    labels = (draw.random(300) < pctr).astype(np.float64)
    counts = draw.integers(0, 4, 300)
    repeated = np.repeat(labels, counts), np.repeat(pctr, counts)
    for weighted, metric in (
        (bootstrap._weighted_auc, auc),
        (bootstrap._weighted_logloss, logloss),
        (bootstrap._weighted_prauc, prauc),
        (bootstrap._weighted_ne, normalized_entropy),
        (bootstrap._weighted_pcoc, pcoc),
    ):
        assert weighted(labels, pctr)(counts) == pytest.approx(metric(*repeated), abs=1e-12)


def test_intervals_of_every_metric_but_ece_hold_it() -> None:
    draw = np.random.default_rng(4)
    pctr = draw.uniform(0.05, 0.5, 3_000)
    labels = (draw.random(3_000) < pctr).astype(np.uint8)
    metrics = evaluate(labels, pctr)
    found = bootstrap.metric_intervals(labels, pctr)
    assert set(found) == {"auc", "logloss", "prauc", "rce", "ne", "pcoc"}
    for name, (low, high) in found.items():
        assert low < getattr(metrics, name) < high
    known = bootstrap.with_intervals(labels, pctr, metrics)
    assert (found["auc"], found["logloss"]) == (known.auc_interval, known.logloss_interval)
    fewer = bootstrap.with_intervals(labels, pctr, metrics, most_rows=600)
    widths = [high - low for low, high in (known.auc_interval, fewer.auc_interval)]
    assert widths[1] == pytest.approx(widths[0], rel=0.35)


def test_means_are_those_of_resampled_rows(clicks) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    rare = np.where(pctr > 0.5, 7.0, 0.0)
    found = resampled_means(labels, [pctr, rare], resamples=5, seed=3)
    draw = np.random.default_rng(3)
    for column in range(1, 6):
        rows = draw.integers(0, len(labels), len(labels), dtype=np.int32)
        assert found[:, column] == pytest.approx([pctr[rows].mean(), rare[rows].mean()])
    assert found[:, 0] == pytest.approx([pctr.mean(), rare.mean()])


def test_means_of_many_rows_scatter_as_those_of_all_of_them(clicks, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    whole = resampled_means(labels, [pctr], resamples=200)
    monkeypatch.setattr(bootstrap, "MOST_ROWS", 1000)
    few = resampled_means(labels, [pctr], resamples=200)
    assert few[0, 0] == whole[0, 0]
    assert few[0, 1:].std() == pytest.approx(whole[0, 1:].std(), rel=0.25)
