"""What only the pages of the commands for finished bundles show; it computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.report.findings import PctrHistogram, Reliability


@dataclass(frozen=True)
class DrawnEvaluation:
    """Reliability before and after calibration, and the histogram of pCTRs."""

    before: Reliability
    after: Reliability
    histogram: PctrHistogram


@dataclass(frozen=True)
class DrawnDiff:
    """Reliability before and after calibration by side, and all differences."""

    before: dict[str, Reliability]
    after: dict[str, Reliability]
    differences: NDArray[np.float64]
