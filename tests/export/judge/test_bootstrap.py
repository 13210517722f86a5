"""The paired bootstrap compared with scikit-learn on resampled rows, and on known differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from export.judge.bootstrap import interval, paired_bootstrap, resampled_aucs, resampled_loglosses


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


def test_many_scores_at_once_are_resampled_as_two_are(clicks) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    scores = [pctr, (pctr**1.1).round(2), np.full_like(pctr, 0.5)]
    aucs = resampled_aucs(labels, scores, resamples=30, seed=3)
    assert aucs.shape == (3, 31)
    assert aucs[:, 0] == pytest.approx([sk.roc_auc_score(labels, score) for score in scores], abs=1e-12)
    for row in (1, 2):
        alone = paired_bootstrap(labels, scores[0], scores[row], "auc", resamples=30, seed=3)
        assert aucs[row, 0] - aucs[0, 0] == pytest.approx(alone.delta, abs=1e-12)
        assert interval(aucs[row, 1:] - aucs[0, 1:]) == pytest.approx(alone.interval, abs=1e-12)


def test_resampled_loglosses_are_of_the_rows_that_paired_bootstrap_draws(clicks) -> None:  # type: ignore[no-untyped-def]
    labels, pctr = clicks
    first, second = resampled_loglosses(labels, [pctr, pctr**1.1], resamples=30, seed=3)
    assert first[0] == pytest.approx(sk.log_loss(labels, pctr))
    paired = paired_bootstrap(labels, pctr, pctr**1.1, "logloss", resamples=30, seed=3)
    assert second[0] - first[0] == pytest.approx(paired.delta)
    assert interval((second - first)[1:]) == pytest.approx(paired.interval)
