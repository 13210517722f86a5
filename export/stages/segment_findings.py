"""How predictions fare by the values of the field that `--calibrate-by` names, on the test part."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.judge.metrics import sigmoid
from export.report.findings import SegmentFindings, SegmentRow
from export.stages.artifacts import Artifacts
from export.stages.calibrator_fit import in_log_distribution
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID, Bins, Field, Hashing

# The values with the most rows are told.
MOST_VALUES = 20
VALUES_NAMED = 3


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
    schema = made.log.schema.renumbered(graph.renumberings)
    shown = np.argsort(-rows, kind="stable")[:MOST_VALUES]
    names = value_names(schema.field(gain.field), seen[shown])
    told = []
    for place in shown:
        number = int(clicks[place])
        offset = offsets.get(int(seen[place]), 0.0) if gain.used else None
        ratios = [float(each[place]) / number if number else None for each in sums]
        told.append(SegmentRow(names[int(seen[place])], int(rows[place]), number, offset, *ratios))
    return SegmentFindings(gain, len(seen), tuple(told))


def value_names(field: Field, ids: NDArray[np.integer]) -> dict[int, str]:
    """What a reader calls the values with these ids [k]; values that share an id share a name."""
    base = np.arange(field.base_cardinality) if field.renumbering is None else field.renumbering
    return {int(one): _joined(field, np.flatnonzero(base == one)) for one in ids}


def _joined(field: Field, base_ids: NDArray[np.integer]) -> str:
    named = [_value_name(field, int(each)) for each in base_ids[:VALUES_NAMED]]
    more = len(base_ids) - len(named)
    return ", ".join([*named, *([f"{more:,} more"] if more else [])])


def _value_name(field: Field, base_id: int) -> str:
    if base_id == MISSING_ID:
        return "missing"
    if base_id == OOV_ID:
        return "out of vocabulary"
    position, encoding = base_id - FIRST_ID, field.encoding
    if isinstance(encoding, Hashing):
        return f"bucket {position}"
    if isinstance(encoding, Bins):
        edges = ["-∞", *(f"{edge:g}" for edge in encoding.edges), "∞"]
        return f"{edges[position]} to {edges[position + 1]}"
    return encoding.values[position]
