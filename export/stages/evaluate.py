"""Judges the graphs of one export on the test part: quality, parity, speed, and which of them serves.

It knows variants, logits and labels; it writes nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import Part
from export.graph.runtime import BATCHES, Scorer, graph_scorer, microseconds_a_row, torch_scorer
from export.judge.metrics import evaluate, sigmoid
from export.judge.parity import choose_serving_variant, compare_variants
from export.report.findings import Reliability, reliability
from export.stages.calibrate import in_log_distribution
from export.stages.variants import DENSE, INT8, PRUNED, Variant
from service.bundle.calibration import Calibrator
from service.bundle.manifest import Latency, Metrics, Parity

TORCH = "torch"


@dataclass(frozen=True)
class Evaluated:
    """What the test part says of each variant. pCTRs are compared in the log's own distribution."""

    calibrated: dict[str, Metrics]
    uncalibrated: dict[str, Metrics]
    reliability_before: dict[str, Reliability]
    reliability_after: dict[str, Reliability]
    parity: tuple[Parity, ...]
    pctr: dict[str, NDArray[np.float64]]  # [n], calibrated


def shipped_variants(variants: Mapping[str, Variant]) -> tuple[str, ...]:
    """The float graph that goes into the bundle, and INT8 where there is one."""
    return PRUNED if PRUNED in variants else DENSE, *(name for name in variants if name == INT8)


def evaluate_variants(
    variants: Mapping[str, Variant], calibrators: Mapping[str, Calibrator], part: Part
) -> Evaluated:
    """All variants on the rows of one part; pruned is compared with dense, INT8 with its float."""
    labels, true_pctr = np.asarray(part.labels), part.true_pctr
    logits = {name: variant.score(part) for name, variant in variants.items()}
    before = {name: sigmoid(values) for name, values in logits.items()}
    after = {name: in_log_distribution(calibrators[name]).pctr(values) for name, values in logits.items()}
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


def measure_latency(dense: nn.Module, variants: Mapping[str, Variant], part: Part) -> tuple[Latency, ...]:
    """Microseconds a row of the PyTorch model and of every graph, taken in turns in one run on one thread."""
    scorers: dict[str, Scorer] = {TORCH: torch_scorer(dense)}
    scorers |= {name: graph_scorer(variant.graph) for name, variant in variants.items()}
    # The smallest graph's ids are ids of every other one too: all are given the same rows.
    ids = variants[shipped_variants(variants)[-1]].ids(np.array(part.ids[: max(BATCHES)]))
    measured = microseconds_a_row(scorers, ids)
    return tuple(Latency(variant=name, microseconds_a_row=times) for name, times in measured.items())


def choose_serving(
    variants: Mapping[str, Variant], latency: tuple[Latency, ...], parity: tuple[Parity, ...]
) -> tuple[str, dict[str, str]]:
    """The variant to serve, and why another one that ships is kept out."""
    reference, *candidates = shipped_variants(variants)
    return choose_serving_variant(reference, candidates, latency, parity)


def machine() -> str:
    """What these times were taken on: the processor and the number of its cores in use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
