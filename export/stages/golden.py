"""Picks the golden rows of a bundle and computes what each shipped graph must answer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.data.samples import sample_positions
from export.graph.runtime import run_graph
from export.stages.variants import Variant
from service.bundle.calibration import Calibrator, segments_of
from service.bundle.encoder import Encoder
from service.bundle.manifest import Golden, GoldenOutputs, GoldenRow
from service.bundle.schema import Field, Kind, Role, Schema

SAMPLED_ROWS = 30
# Processors add in different orders, so logits may differ in their last bits.
LOGIT_TOLERANCE = 1e-4
Samples = Sequence[Mapping[str, Mapping[str, Any]]]
UNSEEN = "a value that no log holds"


def golden_rows(
    schema: Schema,
    samples: Samples,
    variants: Mapping[str, Variant],
    calibrators: Mapping[str, Calibrator],
) -> Golden:
    """Rows of the test part, an empty one, and one of unseen values; with their ids and answers.

    `schema` is the one that ships in the bundle; the graphs of `variants` take its ids.
    """
    rows = [GoldenRow(dict(row["context"]), dict(row["candidate"])) for row in _evenly(samples)]
    rows += [GoldenRow({}, {}), _unseen_row(schema)]
    encoder = Encoder(schema)
    ids = np.concatenate([encoder.encode_request(row.context, [row.candidate]) for row in rows])
    outputs = {}
    for name, variant in variants.items():
        # Alone, so that they are the same whatever is scored with them, also where a graph depends on that.
        logits = run_graph(variant.graph, ids, batch_size=1)
        outputs[name] = GoldenOutputs(
            logits=tuple(logits.tolist()),
            pctrs=tuple(calibrators[name].pctr(logits, segments_of(calibrators[name], schema, ids)).tolist()),
            logit_tolerance=LOGIT_TOLERANCE,
        )
    return Golden(rows=tuple(rows), ids=tuple(map(tuple, ids.tolist())), variants=outputs)


def _evenly(samples: Samples) -> Samples:
    return [samples[position] for position in sample_positions(len(samples), SAMPLED_ROWS)]


def _unseen_row(schema: Schema) -> GoldenRow:
    def value(field: Field) -> Any:
        if field.kind is Kind.NUMERIC:
            return 1e12
        return [UNSEEN] if field.kind is Kind.SEQUENCE else UNSEEN

    def values(role: Role) -> dict[str, Any]:
        return {field.name: value(field) for field in schema.fields if field.role is role}

    return GoldenRow(values(Role.CONTEXT), values(Role.CANDIDATE))
