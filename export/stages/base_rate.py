"""How far the click rate moves against the model's predictions, from window to window of the log.

A window is as many rows as the calibration part holds, in the order of time, or of rows in a log without
time. The report shows days where the log has some. It knows how to apply calibrators, not how to fit them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.judge.metrics import sigmoid
from export.report.findings import RateWindow
from export.stages.calibration_folds import rows_in_order
from export.stages.calibration_methods import offset_to
from export.stages.level_forecast import Window
from service.bundle.calibration import Calibrator

# The most windows of one part, the latest ones; and the rows of a window that are scored, drawn by chance.
MAX_WINDOWS = 12
SCORED_ROWS = 20_000
MOST_DAYS, DAY = 60, 86_400

Score = Callable[[Part], NDArray[np.floating]]
SegmentIds = Callable[[Part], NDArray[np.integer] | None]


@dataclass(frozen=True, eq=False)
class Sample:
    """A window of one part before it is scored: all its labels [n], and the rows to score."""

    part: str
    labels: NDArray[np.uint8]
    scored: Part


def samples_of(parts: Mapping[str, Part]) -> list[Sample]:
    """The windows of the training, validation and calibration parts, in order."""
    length = len(parts["calibration"])
    draw = np.random.default_rng(0)
    found = []
    for name in ("train", "validation", "calibration"):
        part = parts[name]
        for rows in _cut(part, length, least=2 if name == "train" else 1):
            scored = draw.choice(rows, min(SCORED_ROWS, len(rows)), replace=False)
            found.append(Sample(name, np.asarray(part.labels)[rows], rows_of(part, np.sort(scored))))
    return found


def windows_of(samples: Sequence[Sample], score: Score) -> list[Window]:
    """The windows as a model sees them; `score` gives its logits [n]."""
    return [measure(sample.part, sample.labels, score(sample.scored)) for sample in samples]


def _cut(part: Part, length: int, *, least: int) -> Iterator[NDArray[np.int64]]:
    """The row numbers of each window: the last ones of the part, of about `length` rows each."""
    order = rows_in_order(part.timestamps, len(part))
    windows = max(round(len(part) / length), least)
    for rows in np.array_split(order, windows)[-MAX_WINDOWS:]:
        if len(rows):
            yield rows


def rows_of(part: Part, rows: NDArray[np.int64]) -> Part:
    """Some rows of a part, in memory."""
    return replace(
        part,
        ids=part.ids[rows],
        labels=part.labels[rows],
        true_pctr=None,
        timestamps=None if part.timestamps is None else part.timestamps[rows],
    )


def measure(part: str, labels: NDArray[np.integer], logits: NDArray[np.floating]) -> Window:
    """The window of all `labels` [n], and of the `logits` [m] of m of the same rows, drawn by chance."""
    rows, sampled = len(labels), len(logits)
    clicks = int(labels.sum())
    logits = np.asarray(logits, np.float64)
    offset = offset_to(logits, float(np.clip(clicks, 0.5, rows - 0.5)) / rows)
    pctr = sigmoid(logits + offset)
    noise = float((pctr * (1 - pctr)).mean())
    # Of the click rate, and of the mean prediction where only a sample is scored.
    variance = noise / rows + float(pctr.var()) * (1 / sampled - 1 / rows)
    return Window(part, rows, clicks, offset, variance / noise**2)


def rate_by_window(
    parts: Mapping[str, Part], score: Score, calibrator: Calibrator, segments: SegmentIds = lambda _: None
) -> tuple[RateWindow, ...]:
    """Click rate and PCOC of each day (UTC) or window of each part, without and with the calibrator.

    Of a window's predictions a sample is computed; all its labels count. `segments` gives the ids [n] of the
    calibrator's segment field.
    """
    draw = np.random.default_rng(0)
    found = []
    for name, part, rows in _shown_windows(parts):
        sample = draw.choice(rows, min(SCORED_ROWS, len(rows)), replace=False)
        scored = rows_of(parts[part], np.sort(sample))
        logits = score(scored)
        clicks = int(np.asarray(parts[part].labels)[rows].sum())
        ratios = [
            float(pctr.mean()) * len(rows) / clicks if clicks else None
            for pctr in (sigmoid(logits), calibrator.pctr(logits, segments(scored)))
        ]
        found.append(RateWindow(name, part, len(rows), clicks, *ratios))
    return tuple(found)


def _shown_windows(parts: Mapping[str, Part]) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """The name, the part and the row numbers of each window of the log."""
    times = [part.timestamps for part in parts.values() if part.timestamps is not None and len(part)]
    days = (
        max(int(each.max()) // DAY for each in times) - min(int(each.min()) // DAY for each in times)
        if times
        else 0
    )
    for name, part in parts.items():
        if part.timestamps is not None and 1 <= days < MOST_DAYS:
            day = np.asarray(part.timestamps) // DAY
            for one in np.unique(day):
                yield time.strftime("%Y-%m-%d", time.gmtime(int(one) * DAY)), name, np.flatnonzero(day == one)
            continue
        windows = list(_cut(part, len(parts["calibration"]), least=1))
        for number, rows in enumerate(windows, 1):
            label = f"{name} {number} of {len(windows)}"
            if part.timestamps is not None:
                start = int(part.timestamps[rows].min())
                label = time.strftime("from %Y-%m-%d %H:%M", time.gmtime(start))
            yield label, name, rows
