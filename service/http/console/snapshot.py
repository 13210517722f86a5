"""The numbers of the console at one moment; it knows no route and keeps nothing.

Counts are those since the service started. Rates and quantiles of late are the difference of two snapshots,
which the page takes: so any worker answers any of them, and viewers cost the service no memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from service.arms.live import LiveArms
from service.arms.loading import control_arm
from service.arms.serving import ServedArms
from service.arms.split import Arm
from service.bundle.native import is_native
from service.feedback.shadow_events import ARM, CLICKS, SHADOW, TAKEN_OFF, UNCLICKED
from service.http.arm_descriptions import describe_live, describe_shadow
from service.http.console.hours import NOTHING, describe_pcoc
from service.metrics.buckets import LATENCY_BUCKETS, PCTR_BUCKETS
from service.metrics.series import Labels
from service.settings import Settings

SNAPSHOT_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

Totals = Mapping[tuple[str, Labels], Sequence[float]]


def take_snapshot(
    settings: Settings,
    served: ServedArms,
    live: LiveArms | None,
    totals: Totals,
    hours: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """What the page shows of these sums over all workers (`Metrics.totals`) and of the arms that answer.

    `hours` is what `describe_hours` says of them.
    """
    counts = _Counts(totals)
    arms = served.arms
    weights = sum(arm.weight for arm in arms)
    return {
        "at": time.time(),
        "workers": {"serving": counts.number("bidlight_serving_processes"), "set": settings.workers},
        "core": "native" if is_native(settings.native) else "python",
        "control_arm": control_arm(settings, [arm.name for arm in arms]) if arms else None,
        "latency_bounds": LATENCY_BUCKETS,
        "pctr_bounds": PCTR_BUCKETS,
        "arms": [
            {
                "name": arm.name,
                "weight": arm.weight,
                "share": arm.weight / weights,
                "is_killed": arm not in served.living,
                **_describe_bundle(arm),
                **_describe_counts(arm.name, counts),
                "live_calibration": describe_live(settings, live, arm),
                "shadow": _describe_shadow(describe_shadow(served, arm), arm.name, counts),
                **hours.get(arm.name, NOTHING),
            }
            for arm in arms
        ],
        "canary": _describe_canary(counts),
        "without_arm": counts.by_last_label("bidlight_requests", ""),
        "refusals": counts.by_last_label("bidlight_refusals"),
        "last_refusals": counts.by_last_label("bidlight_refusal_timestamp_seconds"),
        "waiting_requests": counts.number("bidlight_waiting_requests"),
        "oldest_wait_seconds": counts.number("bidlight_oldest_wait_seconds"),
        "reloads": {
            outcome: {
                "count": counts.number("bidlight_reloads", outcome),
                "last_at": counts.number("bidlight_reload_timestamp_seconds", outcome) or None,
            }
            for outcome in ("ok", "refused", "undone")
        },
        "catalogue_refreshes": counts.by_last_label("bidlight_catalogue_refreshes"),
    }


def _describe_bundle(arm: Arm) -> dict[str, Any]:
    manifest = arm.predictor.manifest
    return {
        "bundle": manifest.id,
        "created_at": manifest.created_at,
        "model": manifest.model.name,
        "variant": arm.predictor.variant,
        "provider": arm.predictor.graphs.provider,
    }


def _describe_counts(arm: str, counts: _Counts) -> dict[str, Any]:
    """What was counted of an arm; `outcomes` and `qualities` are requests, `pctr` is of rows."""
    return {
        "outcomes": counts.by_last_label("bidlight_requests", arm),
        "qualities": counts.by_last_label("bidlight_answers", arm),
        "latency": counts.histogram("bidlight_request_seconds", arm),
        "pctr": counts.histogram("bidlight_pctr", arm),
        "queued_rows": counts.number("bidlight_queued_rows", arm),
        "feedback": _describe_feedback(arm, counts),
        "catalogue": _describe_catalogue(arm, counts),
    }


def _describe_feedback(arm: str, counts: _Counts) -> dict[str, Any] | None:
    """Impressions, clicks and the PCOC of the bundle's own pCTRs, with 95 % of it; None without feedback."""
    impressions = counts.number("bidlight_feedback_events", arm, "impression", "counted")
    clicks = counts.number("bidlight_feedback_events", arm, "click", "counted")
    if not impressions and not clicks:
        return None
    predicted = counts.number("bidlight_shown_pctr", arm)
    return {
        "impressions": impressions,
        "clicks": clicks,
        "predicted": predicted,
        "pcoc": describe_pcoc(predicted, clicks),
    }


def _describe_shadow(shadow: dict[str, Any] | None, name: str, counts: _Counts) -> dict[str, Any] | None:
    """What a shadow of `of` has done, and how it differs; means are None before there is anything."""
    if shadow is None:
        return None
    pair = shadow["of"], name
    candidates = counts.number("bidlight_shadow_candidates", *pair)
    same, other = (counts.number("bidlight_shadow_best", *pair, best) for best in ("same", "other"))
    alike = counts.histogram("bidlight_shadow_rank_agreement", *pair)
    return {
        **shadow,
        "requests": counts.number("bidlight_shadow_requests", *pair),
        "candidates": candidates,
        "dropped": counts.by_last_label("bidlight_shadow_dropped", *pair),
        "mean_pctr": {
            whose: _ratio(counts.number("bidlight_shadow_pctr", *pair, whose), candidates)
            for whose in (ARM, SHADOW)
        },
        "mean_log_odds_difference": _ratio(
            counts.histogram("bidlight_shadow_log_odds_difference", *pair)["sum"], candidates
        ),
        "same_best": _ratio(same, same + other),
        "rank_agreement": _ratio(alike["sum"], sum(alike["counts"])),
        "feedback": _describe_shadow_feedback(pair, counts),
    }


def _describe_shadow_feedback(pair: tuple[str, str], counts: _Counts) -> dict[str, Any]:
    """PCOC and LogLoss of both on the same impressions."""
    shown, clicks = (counts.number("bidlight_shadow_events", *pair, kind) for kind in ("impression", "click"))
    found: dict[str, Any] = {"impressions": shown, "clicks": clicks}
    for whose in (ARM, SHADOW):
        loss = {
            term: counts.number("bidlight_shadow_loss", *pair, whose, term)
            for term in (UNCLICKED, TAKEN_OFF, CLICKS)
        }
        found[whose] = {
            "pcoc": _ratio(counts.number("bidlight_shadow_shown_pctr", *pair, whose), clicks),
            "logloss": _ratio(loss[UNCLICKED] - loss[TAKEN_OFF] + loss[CLICKS], shown),
        }
    return found


def _ratio(one: float, other: float) -> float | None:
    return one / other if other else None


def _describe_catalogue(arm: str, counts: _Counts) -> dict[str, Any] | None:
    """The ads of an arm, and when the oldest worker began to read them; None without a feature store."""
    if ("bidlight_catalogue_ads", (arm,)) not in counts.totals:
        return None
    return {
        "ads": counts.number("bidlight_catalogue_ads", arm),
        "read_at": counts.number("bidlight_catalogue_read_timestamp_seconds", arm) or None,
    }


def _describe_canary(counts: _Counts) -> dict[str, Any]:
    """The canary under way with what its gates know, None without one, and what became of all so far."""
    under_way = None
    for (name, labels), (share, *_) in counts.totals.items():
        if name == "bidlight_canary_share":
            arm, control = labels
            under_way = {
                "arm": arm,
                "control": control,
                "share": share,
                "step": counts.number("bidlight_canary_step", arm),
                "gates": counts.by_last_label("bidlight_canary_gate", arm),
            }
    verdicts = [
        {"arm": arm, "verdict": verdict, "gate": gate, "count": numbers[0]}
        for (name, (arm, verdict, gate)), numbers in sorted(
            (key, numbers)
            for key, numbers in counts.totals.items()
            if key[0] == "bidlight_canary_verdicts" and numbers[0] > 0
        )
    ]
    return {"under_way": under_way, "verdicts": verdicts}


class _Counts:
    """Looks up totals by the name of a metric and its labels; what was not counted is 0."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals

    def number(self, name: str, *labels: str) -> float:
        return self.totals.get((name, labels), (0.0,))[0]

    def by_last_label(self, name: str, *labels: str) -> dict[str, float]:
        """The numbers of the series that begin with these labels, by the one that is left."""
        return {
            found[-1]: numbers[0]
            for (metric, found), numbers in sorted(self.totals.items())
            if metric == name and found[:-1] == labels
        }

    def histogram(self, name: str, *labels: str) -> dict[str, Any]:
        """The sum, and how many values are in each bucket; the last has no upper bound."""
        total, *counts = self.totals.get((name, labels), (0.0,))
        return {"sum": total, "counts": counts}
