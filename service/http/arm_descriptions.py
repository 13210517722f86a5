"""What `GET /arms` says of the arms; it knows no route."""

from __future__ import annotations

from typing import Any

from service.arms.live import LiveArms
from service.arms.loading import control_arm
from service.arms.serving import ServedArms
from service.arms.split import Arm
from service.bundle.native import is_native
from service.settings import Settings


def describe_arms(settings: Settings, served: ServedArms, live: LiveArms | None) -> dict[str, Any]:
    """The split, and each arm with its bundle."""
    arms = served.arms
    total = sum(arm.weight for arm in arms)
    return {
        "split_salt": settings.split_salt,
        "control_arm": control_arm(settings, [arm.name for arm in arms]),
        "core": "native" if is_native(settings.native) else "python",
        "arms": [
            {
                **_describe_arm(arm, arm.weight / total, is_killed=arm not in served.living),
                "live_calibration": describe_live(settings, live, arm),
                "shadow": describe_shadow(served, arm),
            }
            for arm in arms
        ],
    }


def describe_shadow(served: ServedArms, arm: Arm) -> dict[str, Any] | None:
    """Which arm a shadow follows, and for what share of its keys; None for an arm that answers."""
    shadowing = served.shadows.get(arm.name)
    return None if shadowing is None else {"of": shadowing.of, "share": shadowing.share}


def describe_live(settings: Settings, live: LiveArms | None, arm: Arm) -> dict[str, Any] | None:
    """What feedback makes of an arm's pCTRs; None without live calibration."""
    if live is None:
        return None
    state = live.state(arm)
    bundle, corrected = state.pcocs
    return {
        "mode": settings.live_calibration,
        "revision": state.revision,
        "intercept": state.intercept,
        "slope": state.slope,
        "is_frozen": state.is_frozen,
        "clicks": state.clicks,
        "dispersion": state.dispersion,
        "pcoc": {"bundle": bundle, "live": corrected},
    }


def _describe_arm(arm: Arm, share: float, *, is_killed: bool) -> dict[str, Any]:
    """What an experimenter needs to know of an arm; `share` is its part of the split keys, from 0 to 1."""
    manifest, variant = arm.predictor.manifest, arm.predictor.variant
    return {
        "name": arm.name,
        "weight": arm.weight,
        "share": share,
        "is_killed": is_killed,
        "bundle": manifest.id,
        "created_at": manifest.created_at,
        "model": manifest.model,
        "variant": variant,
        "depends_on_batch": arm.predictor.depends_on_batch,
        "provider": arm.predictor.graphs.provider,
        "calibration": {
            "method": arm.predictor.calibrator.method,
            "segment_field": arm.predictor.calibrator.segment_field,
            "before": arm.predictor.calibrator.before,
            "after": arm.predictor.calibrator.after,
        },
        "training": manifest.training,
        "evaluation": manifest.evaluation.get(variant),
        "fields": _describe_fields(arm),
        "kept_out": manifest.kept_out,
        "warnings": manifest.warnings,
    }


def _describe_fields(arm: Arm) -> list[dict[str, Any]]:
    """Each field, and the share of rows without it: of the rows of late, and of the training part."""
    meter = arm.predictor.meter
    served = {} if meter is None else meter.missing_shares
    trained = arm.predictor.manifest.training.missing
    return [
        {
            "name": field.name,
            "kind": field.kind,
            "role": field.role,
            "missing": {"served": served.get(field.name), "training": trained.get(field.name)},
        }
        for field in arm.predictor.encoder.schema.fields
    ]
