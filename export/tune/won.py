"""What tuning won beyond noise, on the calibration part: rows that neither the search nor training saw.

The best of many trials is best on the validation part by luck too: early stopping and the choice among trials
both looked at its rows. The test part stays unseen for the report. So default and best settings are compared
on the calibration part, which comes later than the validation part and which so far chose nothing; the few
parameters of a calibrator that a run fits there gain nothing from it. Both are trained anew with seeds that
the search did not use, since the seed of the search favours its winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.judge.bootstrap import Delta, interval, resampled_aucs
from export.judge.metrics import row_losses
from export.stages.ladder import fitted_pctr
from export.stages.work import Say
from export.train.config import Metric
from export.tune.fit import Subject
from export.tune.records import Won

SEEDS = 2
FIRST_SEED = 1000  # above the search's own: that of a person is small
RESAMPLES = 400
PART = "calibration"

Floats = NDArray[np.float64]


def estimate(subject: Subject, settings: Mapping[str, Any], *, say: Say) -> Won:
    """Default and best settings with fresh seeds on the calibration part."""
    part = subject.log.parts[PART]
    first = subject.space.config({}).seed + FIRST_SEED
    seeds = tuple(range(first, first + SEEDS))
    say(f"checking the best on {len(part):,} {PART} rows: it and the defaults, {SEEDS} fresh seeds each")
    before = [subject.fit({}, seed=seed).logits(part) for seed in seeds]
    after = [subject.fit(settings, seed=seed).logits(part) for seed in seeds]
    return compared(part, before, after, seeds=seeds, metric=subject.metric)


def compared(
    part: Part, before: list[Floats], after: list[Floats], *, seeds: tuple[int, ...], metric: Metric
) -> Won:
    """The differences of logits [n] by seed, with intervals over resampled rows and seeds."""
    labels = np.asarray(part.labels)
    y = labels.astype(np.float64)
    # After a line fitted to each one's logits: what calibration mends is no difference.
    losses = [np.stack([row_losses(y, fitted_pctr(one, labels)) for one in each]) for each in (before, after)]
    aucs = resampled_aucs(labels, [*before, *after], resamples=RESAMPLES)
    by_seed = {"logloss": losses[1] - losses[0], "auc": aucs[len(before) :] - aucs[: len(before)]}
    drawn = np.random.default_rng(1).integers(0, len(seeds), (RESAMPLES, len(seeds)))
    drawn_auc = np.take_along_axis(by_seed["auc"][:, 1:].T, drawn, axis=1).mean(axis=1)
    first = by_seed["auc"][:, 0] if metric == "auc" else by_seed["logloss"].mean(axis=1)
    return Won(
        part=PART,
        rows=len(y),
        clicks=int(y.sum()),
        seeds=seeds,
        metric=metric,
        logloss=(float(losses[0].mean()), float(losses[1].mean())),
        auc=(float(aucs[: len(before), 0].mean()), float(aucs[len(before) :, 0].mean())),
        delta_logloss=Delta(
            float(by_seed["logloss"].mean()), *interval(_resampled(by_seed["logloss"], drawn))
        ),
        delta_auc=Delta(float(by_seed["auc"][:, 0].mean()), *interval(drawn_auc)),
        by_seed=tuple(first.tolist()),
    )


def _resampled(deltas: Floats, drawn: NDArray[np.integer[Any]]) -> Floats:
    """deltas [seeds, n] -> their mean over resampled rows and the drawn seeds, [resamples]."""
    draw = np.random.default_rng(0)
    rows = deltas.shape[1]
    found = np.empty(len(drawn))
    for at, seeds in enumerate(drawn):
        counts = np.bincount(draw.integers(0, rows, rows, dtype=np.int32), minlength=rows)
        found[at] = (deltas @ counts)[seeds].mean() / rows
    return found
