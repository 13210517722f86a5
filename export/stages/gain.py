"""What the serving variant wins over the plain model that was trained beside it, on the test part."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import numpy as np

from export.errors import ExportError
from export.judge.bootstrap import Delta, paired_changes, with_intervals
from export.judge.metrics import is_evidence
from export.knobs import as_options
from export.stages.artifacts import Artifacts
from export.stages.base_rate import samples_of
from export.stages.baseline import SHARED
from export.stages.calibrate import calibrator_of
from export.stages.calibration_methods import METHODS
from export.stages.evaluate import Judged, evaluate_variants
from export.stages.plan import Plan
from export.stages.variants import Variant
from export.train.config import TrainConfig
from service.bundle.calibration import Calibrator
from service.bundle.manifest import Baseline, Verdict


def gain_over_baseline(baseline: Variant, made: Artifacts, judged: Judged, out: Path) -> Baseline:
    """The differences of the serving variant to the baseline.

    Both are calibrated in the same way, each on its own logits of the calibration part. `out` is the bundle's
    folder.
    """
    name = baseline.name
    quality = evaluate_variants({name: baseline}, {name: _calibrator(baseline, made)}, made.test)
    labels, pctr = np.asarray(made.test.labels), quality.pctr[name]
    served = judged.quality.pctr[judged.serving_variant]
    auc, logloss = paired_changes(labels, (pctr, served), (pctr, served))
    found = verdict_of(auc, logloss) if is_evidence(int(labels.sum()), len(labels)) else "no better"
    served_bytes = len(made.variants[judged.serving_variant].graph)
    is_offered = found != "better" and len(baseline.graph) < served_bytes
    return Baseline(
        model=name,
        graph_bytes=len(baseline.graph),
        metrics=with_intervals(labels, pctr, quality.calibrated[name]),
        auc_delta=auc.delta,
        auc_interval=auc.interval,
        logloss_delta=logloss.delta,
        logloss_interval=logloss.interval,
        verdict=found,
        command=command_of(made, name, out) if is_offered else "",
    )


def _calibrator(baseline: Variant, made: Artifacts) -> Calibrator:
    """Of the methods that the variants were calibrated with.

    Where none of them can be fitted to a baseline that tells hardly anything, of all: that ends no export.
    """
    parts, calibrated = made.log.parts, made.calibrated
    fit = partial(
        calibrator_of,
        baseline,
        parts["calibration"],
        samples_of(parts),
        made.trained.config,
        calibrated.sampling_rate,
        segment_field=calibrated.segment_field,
    )
    try:
        return fit(methods=calibrated.allowed).calibrator
    except ExportError:
        return fit(methods=METHODS).calibrator


def verdict_of(auc: Delta, logloss: Delta) -> Verdict:
    """What the intervals of the two differences say: worse in one is worse, better in one is better."""
    if auc.high < 0.0 or logloss.low > 0.0:
        return "worse"
    return "better" if auc.low > 0.0 or logloss.high < 0.0 else "no better"


def command_of(made: Artifacts, model: str, out: Path) -> str:
    """The command line that makes a bundle of `model`, trained as the baseline was, beside the bundle."""
    rate, allowed = made.calibrated.sampling_rate, made.calibrated.allowed
    options = [
        *(made.summary.options or ("...",)),
        *as_options(made.trained.config, TrainConfig, *SHARED),
        *(("--sampling-rate", str(rate)) if rate != Plan.sampling_rate else ()),
        *(("--calibration-methods", ",".join(allowed)) if allowed != Plan.calibration_methods else ()),
        *(("--calibrate-by", field) if (field := made.calibrated.segment_field) is not None else ()),
        *("--model", model, "--preset", "none", "--out", f"{out}-{model}"),
    ]
    return shlex.join(["python", "-m", "export", "run", *options])
