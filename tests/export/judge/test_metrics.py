"""Every metric compared with scikit-learn or its naive formula, ties included."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from sklearn import metrics as sk

from export.judge import metrics
from export.judge.metrics import MetricError

Rows = tuple[NDArray[np.uint8], NDArray[np.float64]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Labels of both kinds, and pctrs of which many are tied."""
    n = draw(st.integers(2, 60))
    labels = draw(npst.arrays(np.uint8, n, elements=st.integers(0, 1)))
    labels[:2] = (0, 1)
    levels = st.one_of(st.sampled_from([0.1, 0.25, 0.5]), st.floats(1e-6, 1 - 1e-6))
    return labels, draw(npst.arrays(np.float64, n, elements=levels))


@given(rows())
def test_auc(given_rows: Rows) -> None:
    assert metrics.auc(*given_rows) == pytest.approx(sk.roc_auc_score(*given_rows), abs=1e-12)


@given(rows())
def test_auc_counts_pairs_and_half_of_the_ties(given_rows: Rows) -> None:
    labels, pctr = given_rows
    pairs = list(itertools.product(pctr[labels == 1], pctr[labels == 0]))
    wins = sum(1.0 if click > other else 0.5 if click == other else 0.0 for click, other in pairs)
    assert metrics.auc(labels, pctr) == pytest.approx(wins / len(pairs), abs=1e-12)


@given(rows())
def test_prauc(given_rows: Rows) -> None:
    assert metrics.prauc(*given_rows) == pytest.approx(sk.average_precision_score(*given_rows), abs=1e-12)


@given(rows())
def test_logloss(given_rows: Rows) -> None:
    assert metrics.logloss(*given_rows) == pytest.approx(sk.log_loss(*given_rows), rel=1e-12)


@given(rows())
def test_entropies_compare_with_the_constant_ctr(given_rows: Rows) -> None:
    labels, pctr = given_rows
    constant = sk.log_loss(labels, np.full(len(labels), labels.mean()))
    expected = sk.log_loss(labels, pctr) / constant
    assert metrics.normalized_entropy(labels, pctr) == pytest.approx(expected, rel=1e-12)
    assert metrics.rce(labels, pctr) == pytest.approx(100 * (1 - expected), rel=1e-9, abs=1e-9)


@given(rows())
def test_pcoc(given_rows: Rows) -> None:
    labels, pctr = given_rows
    assert metrics.pcoc(labels, pctr) == pytest.approx(sum(pctr) / sum(labels.astype(int)), rel=1e-12)


def naive_ece(labels: NDArray[np.uint8], pctr: NDArray[np.float64], bins: int) -> float:
    """Bins filled row by row in order of pctr; a bin takes in all rows tied with its last one."""
    order = np.argsort(pctr, kind="stable")
    total, start = 0.0, 0
    for i in range(1, bins + 1):
        stop = i * len(labels) // bins
        if stop <= start:
            continue
        while stop < len(labels) and pctr[order[stop]] == pctr[order[stop - 1]]:
            stop += 1
        of_bin = order[start:stop]
        total += len(of_bin) * abs(pctr[of_bin].mean() - labels[of_bin].mean())
        start = stop
    return total / len(labels)


@given(rows(), st.integers(1, 25))
def test_ece(given_rows: Rows, bins: int) -> None:
    assert metrics.ece(*given_rows, bins=bins) == pytest.approx(naive_ece(*given_rows, bins), abs=1e-12)


def test_ece_of_a_calibrated_and_of_a_doubled_prediction() -> None:
    draw = np.random.default_rng(0)
    pctr = draw.beta(2, 30, 200_000)
    labels = (draw.random(200_000) < pctr).astype(np.uint8)
    assert metrics.ECE_BINS == 20
    assert metrics.ece(labels, pctr) < 0.004
    assert metrics.ece(labels, 2 * pctr) == pytest.approx(pctr.mean(), rel=0.05)


@given(rows(), st.integers(0, 2**32 - 1))
def test_no_metric_depends_on_the_order_of_rows(given_rows: Rows, seed: int) -> None:
    labels, pctr = given_rows
    order = np.random.default_rng(seed).permutation(len(labels))
    before, after = metrics.evaluate(labels, pctr), metrics.evaluate(labels[order], pctr[order])
    for name in ("auc", "logloss", "prauc", "rce", "ece", "ne", "pcoc"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9, abs=1e-9)


def test_evaluate_holds_every_metric_and_the_best_possible_auc() -> None:
    labels, pctr, true_pctr = [0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8], [0.1, 0.6, 0.2, 0.7]
    found = metrics.evaluate(labels, pctr, true_pctr)
    assert (found.rows, found.clicks) == (4, 2)
    assert (found.auc, found.auc_of_true_pctr) == (0.75, 1.0)
    assert found.ne == pytest.approx(metrics.logloss(labels, pctr) / math.log(2))
    assert metrics.evaluate(labels, pctr).auc_of_true_pctr is None


def test_a_certain_mistake_costs_much_but_not_infinity() -> None:
    assert metrics.logloss([0, 1], [1.0, 1.0]) == pytest.approx(-math.log(1e-15) / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("labels", "pctr", "message"),
    [
        ([0, 0], [0.1, 0.2], "'labels' must hold clicks and non-clicks"),
        ([1, 1], [0.1, 0.2], "'labels' must hold clicks and non-clicks"),
        ([], [], "'labels' must hold clicks and non-clicks"),
        ([0, 1], [0.1], "flat and equally long"),
        ([0, 2], [0.1, 0.2], r"'labels' must be 0 or 1 \(got 2\)"),
        ([0, 1], [0.1, math.nan], r"'pctr' must be finite \(got nan at row 1\)"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auc, metrics.prauc, metrics.logloss, metrics.ece, metrics.pcoc])
def test_undefined_metrics_are_refused(metric, labels, pctr, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MetricError, match=message):
        metric(labels, pctr)
