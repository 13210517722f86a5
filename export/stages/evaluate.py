"""Judges the graphs of one export on the test part: quality, parity, speed, and which graph serves.

It knows variants, logits and labels; it writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import Part
from export.graph.runtime import BATCHES, Scorer, graph_scorer, microseconds_a_row, torch_scorer
from export.judge.bootstrap import with_intervals
from export.judge.metrics import evaluate, sigmoid
from export.judge.parity import choose_serving_variant, compare_variants
from export.report.findings import Reliability, reliability
from export.stages.calibrator_fit import in_log_distribution
from export.stages.variants import BY_BATCH, DENSE, DYNAMIC, INT8, PRUNED, Variant, float_variant
from service.bundle.calibration import Calibrator
from service.bundle.manifest import Latency, Metrics, Parity

TORCH = "torch"


@dataclass(frozen=True)
class Evaluated:
    """The quality of each variant on the test part. pCTRs are compared in the log's own distribution."""

    calibrated: dict[str, Metrics]
    uncalibrated: dict[str, Metrics]
    reliability_before: dict[str, Reliability]
    reliability_after: dict[str, Reliability]
    parity: tuple[Parity, ...]
    pctr: dict[str, NDArray[np.float64]]  # [n], calibrated


@dataclass(frozen=True)
class Judged:
    """Quality and speed of the graphs, the variant to serve, and why others are kept out."""

    quality: Evaluated
    latency: tuple[Latency, ...]
    serving_variant: str
    kept_out: dict[str, str]


def judge_variants(
    variants: Mapping[str, Variant], calibrators: Mapping[str, Calibrator], dense: nn.Module, part: Part
) -> Judged:
    """Evaluates and times all variants, and the PyTorch model `dense`, on the rows of one part."""
    quality = _with_intervals(evaluate_variants(variants, calibrators, part), part)
    latency = measure_latency(dense, variants, part)
    return Judged(quality, latency, *choose_serving(variants, latency))


def shipped_variants(variants: Mapping[str, Variant]) -> tuple[str, ...]:
    """The float graph that goes into the bundle, and the INT8 ones that there are."""
    return float_variant(variants), *(name for name in variants if name in (INT8, DYNAMIC))


def evaluate_variants(
    variants: Mapping[str, Variant], calibrators: Mapping[str, Calibrator], part: Part
) -> Evaluated:
    """All variants on the rows of one part; pruned is compared with dense, INT8 with its float graph."""
    labels, true_pctr = np.asarray(part.labels), part.true_pctr
    logits = {name: variant.score(part) for name, variant in variants.items()}
    before = {name: sigmoid(values) for name, values in logits.items()}
    after = {
        name: in_log_distribution(calibrators[name]).pctr(
            values, variants[name].segments(part, calibrators[name])
        )
        for name, values in logits.items()
    }
    pairs = [(DENSE, PRUNED)] if PRUNED in variants else []
    reference, *others = shipped_variants(variants)
    pairs += [(reference, other) for other in others]
    return Evaluated(
        calibrated={name: evaluate(labels, pctr, true_pctr) for name, pctr in after.items()},
        uncalibrated={name: evaluate(labels, pctr, true_pctr) for name, pctr in before.items()},
        reliability_before={name: reliability(labels, pctr) for name, pctr in before.items()},
        reliability_after={name: reliability(labels, pctr) for name, pctr in after.items()},
        parity=tuple(
            compare_variants((a, b), labels, (logits[a], logits[b]), (after[a], after[b])) for a, b in pairs
        ),
        pctr=after,
    )


def _with_intervals(quality: Evaluated, part: Part) -> Evaluated:
    """With the intervals of AUC and LogLoss of each calibrated variant."""
    labels = np.asarray(part.labels)
    known = {
        name: with_intervals(labels, quality.pctr[name], one) for name, one in quality.calibrated.items()
    }
    return replace(quality, calibrated=known)


def measure_latency(dense: nn.Module, variants: Mapping[str, Variant], part: Part) -> tuple[Latency, ...]:
    """Microseconds a row of the PyTorch model and of every graph, interleaved in one run on one thread."""
    scorers: dict[str, Scorer] = {TORCH: torch_scorer(dense)}
    scorers |= {name: graph_scorer(variant.graph) for name, variant in variants.items()}
    # Ids of the smallest graph are valid for every other one, so all are timed on the same rows.
    ids = variants[PRUNED if PRUNED in variants else DENSE].ids(np.array(part.ids[: max(BATCHES)]))
    measured = microseconds_a_row(scorers, ids)
    return tuple(Latency(variant=name, microseconds_a_row=times) for name, times in measured.items())


def choose_serving(
    variants: Mapping[str, Variant], latency: tuple[Latency, ...]
) -> tuple[str, dict[str, str]]:
    """The variant to serve, and why others are kept out: a loss on validation rows, or their speed."""
    refused = {name: one.refused for name, one in variants.items() if one.refused}
    reference, *candidates = shipped_variants(variants)
    sizes = {name: len(variants[name].graph) for name in (reference, *candidates)}
    serving, kept_out = choose_serving_variant(reference, candidates, latency, refused, sizes)
    return serving, refused | kept_out


def smallest_serving(judged: Judged, variants: Mapping[str, Variant]) -> Judged:
    """The same for a bundle of one graph.

    INT8 serves unless it lost on validation rows: it is kept out for its speed no more. No service can ask
    for another by its name.
    """
    kept_out, serving = dict(judged.kept_out), judged.serving_variant
    if INT8 in variants and not variants[INT8].refused:
        kept_out.pop(INT8, None)
        serving = INT8
    if DYNAMIC in kept_out:
        kept_out[DYNAMIC] = f"{BY_BATCH}; it is not in this bundle, which has one graph"
    return replace(judged, serving_variant=serving, kept_out=kept_out)
