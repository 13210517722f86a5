"""What tuning won: differences that are there are found, and luck and what calibration mends are none."""

from __future__ import annotations

import numpy as np
import pytest

from export.data.encoded import Part
from export.judge.metrics import auc
from export.train.config import Metric
from export.tune.tables import verdict
from export.tune.won import compared

ROWS = 5_000
DRAW = np.random.default_rng(77)
TRUTH = DRAW.normal(size=ROWS)
LABELS = (DRAW.random(ROWS) < 1 / (1 + np.exp(-TRUTH))).astype(np.uint8)
PART = Part(ids=np.zeros((ROWS, 1), np.int32), labels=LABELS, true_pctr=None, timestamps=None)
SEEDS = (1000, 1001, 1002)


def noisy(seed: int, size: float) -> np.ndarray:
    return TRUTH + size * np.random.default_rng(seed).normal(size=ROWS)


@pytest.mark.parametrize("metric", ["logloss", "auc"])
def test_a_real_gain_is_beyond_noise(metric: Metric) -> None:
    before, after = (
        [noisy(seed, size) for seed in seeds] for seeds, size in (((1, 2, 5), 1.0), ((3, 4, 6), 0.3))
    )
    won = compared(PART, before, after, seeds=SEEDS, metric=metric)
    assert won.beyond_noise
    assert won.gain.low < won.gain.delta < won.gain.high
    assert won.gain.delta == pytest.approx(np.mean(won.by_seed) * (1 if metric == "auc" else -1))
    assert won.auc[0] == pytest.approx(np.mean([auc(LABELS, one) for one in before]))
    assert won.delta_auc.delta == pytest.approx(won.auc[1] - won.auc[0])
    assert won.delta_logloss.delta == pytest.approx(won.logloss[1] - won.logloss[0])
    assert verdict(won).startswith("tuning won something beyond noise")
    lost = compared(PART, after, before, seeds=SEEDS, metric=metric)
    assert lost.gain.delta == pytest.approx(-won.gain.delta)
    assert verdict(lost).startswith("tuning won nothing, the defaults do better")


def test_equally_good_ones_are_not_told_apart() -> None:
    won = compared(
        PART,
        [noisy(1, 0.5), noisy(2, 0.5), noisy(5, 0.5)],
        [noisy(3, 0.5), noisy(4, 0.5), noisy(6, 0.5)],
        seeds=SEEDS,
        metric="logloss",
    )
    assert not won.beyond_noise
    assert verdict(won).startswith("tuning won nothing beyond noise, the defaults do as well")


def test_one_lucky_seed_is_no_win() -> None:
    """Rows alone would call it one: the mean of the seeds is better on nearly every resample of rows."""
    same = noisy(1, 1.0) - 0.02 * noisy(9, 1.0)
    won = compared(PART, [noisy(1, 1.0)] * 3, [noisy(3, 0.2), same, same], seeds=SEEDS, metric="logloss")
    assert won.gain.delta > 0.005
    assert not won.beyond_noise


def test_what_a_calibrator_mends_is_no_difference() -> None:
    before = [noisy(1, 0.5), noisy(2, 0.5), noisy(3, 0.5)]
    won = compared(PART, before, [3 * one - 1 for one in before], seeds=SEEDS, metric="logloss")
    assert won.gain.delta == pytest.approx(0.0, abs=1e-9)
    assert won.delta_auc.delta == 0.0
