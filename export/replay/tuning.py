"""The scale of a policy that wins the most clicks of the training part with a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from export.replay.auctions import Auctions, Floats
from export.replay.stream import Stream

# Scales that are tried win from this share of the auctions to all of them, in equal ratios.
LEAST_SHARE: Final = 1e-3
TRIED: Final = 128


def tuned_scales(stream: Stream, auctions: Auctions, budgets: Sequence[float]) -> list[float]:
    """The best scale for each budget: of those with the most clicks the one that wins the most pCTR.

    Clicks are few, so many scales win as many; pCTR then tells which of them is likely to win more.
    """
    best = [(-1.0, -1.0, 0.0)] * len(budgets)
    for scale in tried_scales(stream.least_scales):
        for number, won in enumerate(stream.replay(scale, budgets)):
            clicks, pctr = auctions.clicks[won.rows].sum(), auctions.pctr[won.rows].sum()
            best[number] = max(best[number], (float(clicks), float(pctr), scale))
    return [scale for _, _, scale in best]


def tried_scales(least_scales: Floats) -> list[float]:
    """Scales that win LEAST_SHARE of the auctions to all that can be won, in steps of one ratio of shares."""
    possible = np.sort(least_scales[np.isfinite(least_scales)])
    wins = np.geomspace(max(1.0, LEAST_SHARE * len(possible)), len(possible), TRIED)
    # The next number above the scale at which the last of them is not yet won.
    found = np.nextafter(possible[wins.astype(np.intp) - 1], np.inf)
    return sorted({float(scale) for scale in found})
