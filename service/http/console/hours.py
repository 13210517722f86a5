"""Feedback by the hour, and how reliable pCTRs were, as the console has it; it knows no page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from service.calibration.counts import BINS, CLICKS, IMPRESSIONS, PREDICTED, Counts
from service.calibration.fit import pcoc_interval
from service.calibration.hours import HOUR_MS, HOURS, HourMemory
from service.calibration.reliability import reliability_of
from service.feedback.tokens import now_ms

# What the diagram is made of; what is older tells of a day like others, and of a bundle like none.
DIAGRAM_HOURS = 24


NOTHING: dict[str, Any] = {"hours": None, "reliability": None}


def describe_hours(arms: Iterable[str], memory: HourMemory | None) -> dict[str, dict[str, Any]]:
    """By arm, its PCOC by the hour of the impressions, and its reliability of late; none without feedback."""
    return {} if memory is None else {arm: _describe_arm(arm, memory, now_ms()) for arm in arms}


def _describe_arm(arm: str, memory: HourMemory, now: int) -> dict[str, Any]:
    hours = memory.hours(arm, now)
    late = [counts for hour, counts in hours.items() if hour > now // HOUR_MS - DIAGRAM_HOURS]
    return {
        "hours": {"of": HOURS, "each": [_describe_hour(hour, counts) for hour, counts in hours.items()]},
        "reliability": {
            "of": DIAGRAM_HOURS,
            "points": reliability_of(np.sum(late, axis=0) if late else np.zeros((BINS, 3))),
        },
    }


def _describe_hour(hour: int, counts: Counts) -> dict[str, Any]:
    """What was shown and clicked of the tokens made in an hour, which begins `at`, a Unix time."""
    shown, clicks, predicted = (float(counts[:, part].sum()) for part in (IMPRESSIONS, CLICKS, PREDICTED))
    return {
        "at": hour * HOUR_MS // 1000,
        "impressions": shown,
        "clicks": clicks,
        "predicted": predicted,
        "pcoc": describe_pcoc(predicted, clicks),
    }


def describe_pcoc(predicted: float, clicks: float) -> dict[str, float | None]:
    """PCOC with 95 % of it, None for what has no bound."""
    low, high = pcoc_interval(predicted, clicks)
    return {
        "value": predicted / clicks if clicks else None,
        "low": low,
        "high": high if math.isfinite(high) else None,
    }
