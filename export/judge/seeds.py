"""What several seeds say together: a mean whose interval holds both rows and seeds. It trains nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from export.judge.bootstrap import Delta

CONFIDENCE = 0.95


def over_seeds(by_seed: NDArray[np.float64]) -> Delta:
    """The mean of a figure over its seeds, [seeds, 1 + resamples]: of all rows first, then of resampled rows.

    The half-width of the interval is the root of the sum of two squares. One is that of the mean over seeds
    under resampled rows, which are the same for all seeds. The other is that between seeds by Student's t
    ("The probable error of a mean", Biometrika 1908), since they are few: resampled seeds would scatter too
    little, of two by the root of 2 at least, and their percentiles lie between the two. Of one seed only the
    rows are known.
    """
    seeds, upper = len(by_seed), (1 + CONFIDENCE) / 2
    reach = float(ndtri(upper)) * float(by_seed.mean(axis=0)[1:].std())
    if seeds > 1:
        error = float(by_seed[:, 0].std(ddof=1)) / math.sqrt(seeds)
        reach = math.hypot(reach, float(stdtrit(seeds - 1, upper)) * error)
    mean = float(by_seed[:, 0].mean())
    return Delta(mean, mean - reach, mean + reach)
