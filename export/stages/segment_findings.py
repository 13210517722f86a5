"""How predictions fare by the values of the field that `--calibrate-by` names, on the test part."""

from __future__ import annotations

import msgspec
import numpy as np

from export.judge.metrics import sigmoid
from export.report.findings import SegmentFindings, SegmentRow
from export.report.value_names import value_names
from export.stages.artifacts import Artifacts
from export.stages.calibrator_fit import in_log_distribution

# The values with the most rows are told.
MOST_VALUES = 20


def segment_findings(made: Artifacts, variant: str) -> SegmentFindings | None:
    """Rows, clicks, offset and PCOC of the most frequent values of one variant; None without such a field."""
    gain = made.calibrated.segments.get(variant)
    if gain is None:
        return None
    graph, calibrator = made.variants[variant], in_log_distribution(made.calibrators[variant])
    of_all = msgspec.structs.replace(calibrator, segment_field=None, segment_offsets=())
    ids, logits = graph.ids_of(made.test, gain.field), graph.score(made.test)
    pctrs = [sigmoid(logits), of_all.pctr(logits), calibrator.pctr(logits, ids)]
    seen, places = np.unique(ids, return_inverse=True)
    rows, clicks = np.bincount(places), np.bincount(places, made.test.labels)
    sums = [np.bincount(places, pctr) for pctr in pctrs]
    offsets = dict(calibrator.segment_offsets)
    schema = graph.own_schema
    shown = np.argsort(-rows, kind="stable")[:MOST_VALUES]
    names = value_names(schema.field(gain.field), seen[shown])
    told = []
    for place in shown:
        number = int(clicks[place])
        offset = offsets.get(int(seen[place]), 0.0) if gain.used else None
        ratios = [float(each[place]) / number if number else None for each in sums]
        told.append(SegmentRow(names[int(seen[place])], int(rows[place]), number, offset, *ratios))
    return SegmentFindings(gain, len(seen), tuple(told))
