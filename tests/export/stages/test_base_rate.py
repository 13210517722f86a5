"""Windows of a log whose click rate moves in a known way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.data.parts import Part
from export.judge.metrics import pcoc, sigmoid
from export.stages import base_rate
from export.stages.base_rate import measure, rate_by_window, samples_of, windows_of
from export.stages.calibrator_fit import fit_calibrator
from export.stages.level_forecast import Forecast, forecast
from service.bundle.calibration import Calibrator

RATES = (0.10, 0.12, 0.09, 0.08, 0.13, 0.10, 0.07, 0.11, 0.09, 0.12)
ROWS_A_DAY = 8_000


def log_of(rates: tuple[float, ...], seed: int = 0, rows: int = ROWS_A_DAY) -> dict[str, Part]:
    """Ten days, the last three validation, calibration and test; ids [n, 1] are the logits in thousandths.

    The logits are right in a log with a click in ten rows all the time.
    """
    draw = np.random.default_rng(seed)
    logits = draw.normal(-2.4, 0.6, (len(rates), rows))
    shift = np.log(np.array(rates) / (1 - np.array(rates))) - np.log(0.1 / 0.9)
    labels = (draw.random(logits.shape) < sigmoid(logits + shift[:, None])).astype(np.uint8)
    times = np.arange(len(rates))[:, None] * 86_400 + np.sort(draw.integers(0, 86_400, logits.shape), axis=1)
    parts = {}
    for name, days in (("train", slice(0, -3)), ("validation", -3), ("calibration", -2), ("test", -1)):
        parts[name] = Part(
            ids=(1000 * logits[days]).astype(np.int32).reshape(-1, 1),
            labels=labels[days].ravel(),
            true_pctr=None,
            timestamps=times[days].ravel(),
        )
    return parts


def score(part: Part) -> NDArray[np.float64]:
    return part.ids[:, 0] / 1000


def calibrator_of(parts: dict[str, Part], expected: Forecast | None = None) -> Calibrator:
    part = parts["calibration"]
    return fit_calibrator(
        score(part),
        part.labels,
        variant="float32",
        graph_sha256="0" * 64,
        timestamps=part.timestamps,
        expected=expected,
    )


def calibrated(parts: dict[str, Part], expected: Forecast | None) -> float:
    """PCOC of the test part after calibration with this forecast."""
    calibrator = calibrator_of(parts, expected)
    return pcoc(parts["test"].labels, calibrator.pctr(score(parts["test"])))


def test_a_rate_that_moves_by_the_day_is_not_chased() -> None:
    parts = log_of(RATES)
    windows = windows_of(samples_of(parts), score)
    assert [window.part for window in windows] == ["train"] * 7 + ["validation", "calibration"]
    assert [window.rows for window in windows] == [ROWS_A_DAY] * 9
    raw = pcoc(parts["test"].labels, sigmoid(score(parts["test"])))
    assert abs(calibrated(parts, forecast(windows)) - 1) <= abs(raw - 1) + 0.01
    # A calibrator that follows the last day is far off on the next.
    assert abs(calibrated(parts, None) - 1) > abs(raw - 1) + 0.05


@pytest.mark.parametrize("step", [0.06, 0.12])
def test_a_rate_that_goes_somewhere_is_followed(step: float) -> None:
    """It rises by the day; before calibration the model is as far behind as the training part's middle."""
    parts = log_of(tuple(0.08 * np.exp(step * day) for day in range(10)))
    raw = pcoc(parts["test"].labels, sigmoid(score(parts["test"]) + np.log(0.08 / 0.1) + 3 * step))
    expected = forecast(windows_of(samples_of(parts), score))
    assert raw < 1 - 4 * step
    assert abs(calibrated(parts, expected) - 1) < 0.6 * abs(raw - 1)


def test_a_level_that_stays_is_corrected() -> None:
    parts = log_of((0.05,) * 10, rows=30_000)
    expected = forecast(windows_of(samples_of(parts), score))
    assert expected.error < 0.08
    assert pcoc(parts["test"].labels, sigmoid(score(parts["test"]))) > 1.8
    assert calibrated(parts, expected) == pytest.approx(1.0, abs=0.08)


def test_a_window_counts_all_labels_and_scores_a_sample() -> None:
    draw = np.random.default_rng(3)
    offsets, variances = [], []
    for _ in range(200):
        logits = draw.normal(-2, 1, 5_000)
        labels = draw.random(5_000) < sigmoid(logits + 0.3)
        window = measure("train", labels, draw.choice(logits, 1_000, replace=False))
        offsets.append(window.offset)
        variances.append(window.variance)
    assert np.mean(offsets) == pytest.approx(0.3, abs=0.02)
    assert np.var(offsets) == pytest.approx(np.mean(variances), rel=0.25)


def test_windows_follow_time_whatever_the_order_of_the_log() -> None:
    parts = log_of(RATES)
    order = np.random.default_rng(4).permutation(len(parts["train"]))
    shuffled = {**parts, "train": base_rate.rows_of(parts["train"], order)}
    clicks = [window.clicks for window in windows_of(samples_of(parts), score)]
    assert [window.clicks for window in windows_of(samples_of(shuffled), score)] == clicks


def test_windows_without_time_are_rows() -> None:
    parts = {
        name: Part(ids=part.ids, labels=part.labels, true_pctr=None, timestamps=None)
        for name, part in log_of(RATES, rows=500).items()
    }
    assert [window.rows for window in windows_of(samples_of(parts), score)] == [500] * 9
    few = {**parts, "train": base_rate.rows_of(parts["train"], np.arange(300))}
    assert [window.rows for window in windows_of(samples_of(few), score)] == [150, 150, 500, 500]


def test_the_report_has_the_days_of_the_log() -> None:
    parts = log_of(RATES)
    calibrator = calibrator_of(parts)
    found = rate_by_window(parts, score, calibrator)
    assert [window.name for window in found] == [f"1970-01-{day:02}" for day in range(1, 11)]
    assert [window.part for window in found] == ["train"] * 7 + ["validation", "calibration", "test"]
    for window, rate in zip(found, RATES, strict=True):
        assert window.clicks / window.rows == pytest.approx(rate, abs=0.025)
    test = parts["test"]
    assert found[-1].pcoc_before == pytest.approx(pcoc(test.labels, sigmoid(score(test))))
    assert found[-1].pcoc_after == pytest.approx(pcoc(test.labels, calibrator.pctr(score(test))))
    assert found[-2].pcoc_after == pytest.approx(1.0, abs=0.01)


def test_the_report_of_an_hour_and_of_a_log_without_time_has_windows() -> None:
    parts = log_of(RATES, rows=500)
    calibrator = calibrator_of(parts)
    for shorten, name in ((400, "from 1970-01-01 00:0"), (None, "train 1 of 7")):
        short = {
            part: replace(
                rows,
                timestamps=None if shorten is None or rows.timestamps is None else rows.timestamps // shorten,
            )
            for part, rows in parts.items()
        }
        found = rate_by_window(short, score, calibrator)
        assert len(found) == 10
        assert found[0].name.startswith(name)
        assert sum(window.rows for window in found) == 5_000


def test_a_day_without_clicks_has_no_pcoc() -> None:
    parts = log_of(RATES, rows=500)
    parts["validation"] = replace(parts["validation"], labels=np.zeros(500, np.uint8))
    found = rate_by_window(parts, score, calibrator_of(parts))
    assert (found[7].clicks, found[7].pcoc_before, found[7].pcoc_after) == (0, None, None)
