"""What tuning won beyond noise, on the calibration part: rows that neither the search nor training saw.

The best of many trials is best on the validation part by luck too: early stopping and the choice among trials
both looked at its rows. The test part stays unseen for the report. So default and best settings are compared
on the calibration part, which comes later than the validation part and which so far chose nothing; the few
parameters of a calibrator that a run fits there gain nothing from it. Both are trained anew with seeds that
the search did not use, since the seed of the search favours its winner. Three are the fewest that tell much:
Student's t asks of two seeds that they differ from the defaults by nine times as much as between themselves,
of three by two and a half times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.data.progress import Bar
from export.judge.bootstrap import resampled_aucs, resampled_loglosses
from export.judge.seeds import over_seeds
from export.stages.ladder import fitted_pctr
from export.stages.work import Say
from export.train.config import Metric
from export.tune.fit import Subject
from export.tune.records import Won

SEEDS = 3
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
    with Bar("checking", 2 * SEEDS, unit="trainings", whole=True) as bar:

        def logits_of(tried: Mapping[str, Any], seed: int) -> Floats:
            found = subject.fit(tried, seed=seed).logits(part)
            bar.add(1)
            return found

        before = [logits_of({}, seed) for seed in seeds]
        after = [logits_of(settings, seed) for seed in seeds]
    return compared(part, before, after, seeds=seeds, metric=subject.metric)


def compared(
    part: Part, before: list[Floats], after: list[Floats], *, seeds: tuple[int, ...], metric: Metric
) -> Won:
    """The differences of logits [n] by seed, with intervals over rows and seeds."""
    labels, seeded = np.asarray(part.labels), len(before)
    scores = [*before, *after]
    # After a line fitted to each one's logits: what calibration mends is no difference.
    pctrs = [fitted_pctr(one, labels) for one in scores]
    resampled = {
        "logloss": resampled_loglosses(labels, pctrs, resamples=RESAMPLES),
        "auc": resampled_aucs(labels, scores, resamples=RESAMPLES),
    }
    by_seed = {name: each[seeded:] - each[:seeded] for name, each in resampled.items()}

    def means(name: str) -> tuple[float, float]:
        """Of the metric over the seeds, before and after."""
        whole = resampled[name][:, 0]
        return float(whole[:seeded].mean()), float(whole[seeded:].mean())

    return Won(
        part=PART,
        rows=len(part),
        clicks=part.clicks,
        seeds=seeds,
        metric=metric,
        logloss=means("logloss"),
        auc=means("auc"),
        delta_logloss=over_seeds(by_seed["logloss"]),
        delta_auc=over_seeds(by_seed["auc"]),
        by_seed=tuple(by_seed[metric][:, 0].tolist()),
    )
